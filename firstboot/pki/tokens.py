# SPDX-License-Identifier: Apache-2.0
"""The key pair that signs and proves service account tokens; like an authority it is made once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from firstboot import files
from firstboot.failure import BasaltError
from firstboot.pki import keys
from firstboot.pki.verdict import Sound, Verdict, reason

PUBLIC_KEY = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----\n?", re.DOTALL)

HINT = (
    "Restore it from a backup or from another control plane. Removing both files makes a new pair; all "
    "tokens given out so far then stop working."
)


@dataclass(frozen=True)
class TokenKeys:
    """Where the pair is kept.

    public:      one or more keys, that of `private` first; an earlier key here keeps its tokens valid
    owner, mode: of the private key
    """

    name: str
    private: Path
    public: Path
    owner: files.Owner | None = ("root", "root")
    mode: int = 0o600

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files whose state decides whether the pair is as it should be."""
        return (self.private, self.public)


def check(pair: TokenKeys, now: datetime | None = None) -> str | None:
    """Return why `apply` has work to do, or None. Raises BasaltError for a pair that cannot be used."""
    return reason(examine(pair, now))


def apply(pair: TokenKeys, now: datetime | None = None) -> bool:
    """Make what is missing of the pair; return whether anything was. Raises BasaltError."""
    if check(pair, now) is None:
        return False
    private, public = make(pair)
    files.write_all([private])
    files.write_all([public])
    return True


def examine(pair: TokenKeys, now: datetime | None = None) -> Verdict:
    """Look at both files. Raises BasaltError for a pair that cannot be used."""
    private, public = (files.read_or_none(path) for path in pair.paths)
    if private is None and public is None:
        return "there is none yet"
    own = _own_public(pair, private)
    if public is None or own not in PUBLIC_KEY.findall(public):
        return f"{pair.public.name} lacks the public part of {pair.private.name}"
    for path, mode, owner in ((pair.private, pair.mode, pair.owner), (pair.public, 0o644, None)):
        if wrong := files.wrong_attributes(path, mode, owner):
            return f"{path.name} {wrong}"
    return Sound(since=0.0, until=float("inf"))


def make(pair: TokenKeys) -> tuple[files.File, files.File]:
    """Return private and public file as they should be written, in this order; what exists is kept."""
    private, public = (files.read_or_none(path) for path in pair.paths)
    if private is None and public is None:
        private = keys.private_pem(keys.new_key())
    own = _own_public(pair, private)
    others = [key for key in PUBLIC_KEY.findall(public or b"") if key != own]
    return (
        files.File(pair.private, private or b"", pair.mode, pair.owner),
        files.File(pair.public, b"".join([own, *others])),
    )


def _own_public(pair: TokenKeys, private: bytes | None) -> bytes:
    if private is None:
        raise BasaltError(
            f"the private key of service account tokens is lost: {pair.public} is there and "
            f"{pair.private} is not",
            HINT,
        )
    try:
        return keys.public_pem(keys.read_key(private).public_key())
    except keys.Unreadable as error:
        raise BasaltError(f"the key of service account tokens {pair.private} {error}", HINT) from error
