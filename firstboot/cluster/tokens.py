# SPDX-License-Identifier: Apache-2.0
"""Tokens that let a machine join, and how both sides prove that they know one without telling it to a stranger.

A one-time token is ``basalt1.ID.SECRET.PIN``: the pin is the digest of the cluster's CA, so that a machine
never trusts blindly. A shared token is any long text that a fleet's documents have in common; there is no pin
in it, because no cluster exists when it is written. In both cases the control plane proves first that it knows
the secret, with a proof that covers its CA. Guessing a secret from such a proof is why secrets have to be long.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Self

PREFIX = "basalt1"
ID_BYTES, SECRET_BYTES = 5, 20
LEAST_SHARED = 32
"""Characters of a shared token: 128 bits if it is written in hexadecimal digits."""
LEAST_VARIETY = 8
"""Different characters in a shared token; fewer mean that it was typed, not made at random."""

ONE_TIME = re.compile(
    rf"{PREFIX}\.([0-9a-f]{{{2 * ID_BYTES}}})\.([0-9a-f]{{{2 * SECRET_BYTES}}})\.([0-9a-f]{{64}})"
)


class BadToken(ValueError):
    """The text is no token; the message says why without repeating it."""


@dataclass(frozen=True)
class Token:
    """What lets a machine in.

    id:     what the other side finds it by; tells nothing about the secret
    pin:    SHA-256 of the DER form of the cluster's CA certificate, in hexadecimal; None in a shared token
    """

    id: str
    secret: str = field(repr=False)
    pin: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a token as it stands in a document. Raises BadToken."""
        if text.startswith(f"{PREFIX}."):
            match = ONE_TIME.fullmatch(text)
            if match is None:
                raise BadToken("a one-time token that is damaged or cut off")
            return cls(*match.groups())
        if len(text) < LEAST_SHARED or len(set(text)) < LEAST_VARIETY:
            raise BadToken("a token that could be guessed")
        digest = hashlib.sha256(b"basalt token id\0" + text.encode()).hexdigest()
        return cls(f"shared-{digest[:16]}", text)

    @classmethod
    def new(cls, authority: bytes) -> Self:
        """Make a one-time token for a cluster with this CA certificate (DER)."""
        return cls(secrets.token_hex(ID_BYTES), secrets.token_hex(SECRET_BYTES), fingerprint(authority))

    @property
    def shared(self) -> bool:
        """Whether many machines may use it."""
        return self.pin is None

    @property
    def text(self) -> str:
        """The token as a document has it."""
        return self.secret if self.shared else f"{PREFIX}.{self.id}.{self.secret}.{self.pin}"

    def proof(self, nonce: bytes, authority: bytes, time: int) -> str:
        """Return what only somebody who knows the secret can say about a CA certificate (DER) and a clock.

        nonce: of the side that has to be convinced; makes an overheard proof worthless
        time:  of the control plane's clock, seconds of the epoch
        """
        said = b"\0".join(
            (b"basalt join", nonce.hex().encode(), fingerprint(authority).encode(), str(time).encode())
        )
        return hmac.new(self.secret.encode(), said, hashlib.sha256).hexdigest()


def fingerprint(authority: bytes) -> str:
    """Return the SHA-256 of a certificate in DER form, in hexadecimal."""
    return hashlib.sha256(authority).hexdigest()


def same(one: str, other: str) -> bool:
    """Compare two secrets or proofs in a time that tells nothing."""
    return hmac.compare_digest(one.encode(), other.encode())
