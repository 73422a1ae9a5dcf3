# SPDX-License-Identifier: Apache-2.0
"""The beginning of a backup, which can be read without a key: a line that says what it is, and one of JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

from firstboot.codes import Code
from firstboot.failure import Failure, Refused

MAGIC = b"basalt-backup\n"
FORMAT = 1
LONGEST = 64 * 1024
"""Bytes of the JSON line; a whole one has some five hundred."""

MOST_MEMORY = 256 * 1024**2
MOST_ROUNDS = 16
"""What a key may cost: a file from elsewhere must not take the machine's memory or hours."""


@dataclass(frozen=True)
class Scrypt:
    """The key is made of a passphrase (RFC 7914)."""

    n: int
    r: int
    p: int
    salt: bytes

    def to_dict(self) -> dict[str, Any]:
        """Return it as it stands in the header."""
        return {"kind": "scrypt", "n": self.n, "r": self.r, "p": self.p, "salt": _text(self.salt)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read it. Raises ValueError, KeyError or TypeError for what is none, or costs too much."""
        n, r, p = (_number(data[name]) for name in ("n", "r", "p"))
        if n < 2 or n & (n - 1) or not (0 < r and 0 < p <= MOST_ROUNDS) or 128 * n * r > MOST_MEMORY:
            raise ValueError(f"scrypt with n={n}, r={r}, p={p}")
        return cls(n, r, p, _bytes(data["salt"]))


@dataclass(frozen=True)
class Agreement:
    """The key is agreed upon (X25519, HKDF) between one made for this file alone and the recipient's.

    ephemeral: the file's public key
    recipient: fingerprint of the recipient's public key
    """

    ephemeral: bytes
    recipient: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as it stands in the header."""
        return {"kind": "x25519", "ephemeral": _text(self.ephemeral), "recipient": self.recipient}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read it. Raises ValueError, KeyError or TypeError for what is none."""
        return cls(_bytes(data["ephemeral"]), str(data["recipient"]))


Lock = Scrypt | Agreement
LOCKS: Mapping[str, type[Scrypt] | type[Agreement]] = {"scrypt": Scrypt, "x25519": Agreement}


@dataclass(frozen=True)
class Header:
    """What a backup says about itself.

    created:            RFC 3339, UTC
    cluster:            name
    basalt, kubernetes: versions of the image it was made by; empty where unknown
    datastore:          type
    revision:           newest of the datastore
    """

    created: str
    cluster: str
    basalt: str
    kubernetes: str
    datastore: str
    revision: int
    lock: Lock

    @property
    def head(self) -> bytes:
        """The first bytes of the file."""
        fields = {name: getattr(self, name) for name in TEXTS}
        data = {"format": FORMAT, **fields, "revision": self.revision, "key": self.lock.to_dict()}
        return MAGIC + json.dumps(data).encode() + b"\n"

    @classmethod
    def read(cls, file: BinaryIO) -> tuple[Self, bytes]:
        """Return the header and its bytes; the file stands behind it then. Raises Refused."""
        if file.read(len(MAGIC)) != MAGIC:
            raise unreadable("is no backup of Basalt", "Give a file made by `basalt datastore backup`.")
        line = file.readline(LONGEST)
        try:
            data = json.loads(line)
            if data["format"] != FORMAT:
                raise unreadable(
                    f"has format {data['format']!r}, and this image knows {FORMAT}",
                    "Restore it with an image of the version that made it.",
                )
            lock = LOCKS[data["key"]["kind"]].from_dict(data["key"])
            texts = {name: _line(data[name]) for name in TEXTS}
            return cls(**texts, revision=_number(data["revision"]), lock=lock), MAGIC + line
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise damaged(f"its header cannot be read: {error!r}") from None


TEXTS = ("created", "cluster", "basalt", "kubernetes", "datastore")


def unreadable(found: str, remedy: str) -> Refused:
    """Return the error for a file that this version cannot read."""
    return Refused([Failure(Code.BACKUP_FORMAT, "backup", found, remedy)])


def damaged(found: str) -> Refused:
    """Return the error for a backup that is not what was written."""
    remedy = "Copy the file again, or take another backup: this one cannot be used."
    return Refused([Failure(Code.BACKUP_DAMAGED, "backup", found, remedy)])


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")
    return value


def _line(value: Any) -> str:
    if not isinstance(value, str) or not (value.isprintable() and len(value) <= 256):
        raise TypeError(f"{value!r} is no short text")
    return value
