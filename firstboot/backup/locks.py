# SPDX-License-Identifier: Apache-2.0
"""What opens a backup: a passphrase, or the private key to a public one that was known when it was made.

`cryptography` is imported inside functions: the command line starts without it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from firstboot.backup.header import Agreement, Lock, Scrypt
from firstboot.codes import Code
from firstboot.failure import BasaltError, Failure, Refused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

SHORTEST, LONGEST = 12, 1024
"""Characters of a passphrase."""

KEY_BYTES = 32
# 32 MiB and half a second on a small machine; OWASP's advice for this much memory.
N, R, P = 2**15, 8, 3
PURPOSE = b"basalt backup 1"

MAKE_KEY = "Make a pair with `openssl genpkey -algorithm x25519` and `openssl pkey -pubout`."


class Sealer(Protocol):
    """Who can make backups."""

    def lock(self) -> tuple[Lock, bytes]:
        """Return a new lock and its key."""
        ...


class Opener(Protocol):
    """Who can open some."""

    def open(self, lock: Lock) -> bytes:
        """Return the key. Raises Refused for a lock that this can never open."""
        ...


@dataclass(frozen=True)
class Passphrase:
    """Makes and opens."""

    text: str = field(repr=False)

    def __post_init__(self) -> None:
        if not SHORTEST <= len(self.text) <= LONGEST:
            raise BasaltError(
                f"the passphrase has {len(self.text)} characters",
                f"Take one of {SHORTEST} to {LONGEST}; `openssl rand -base64 24` makes one.",
            )

    def lock(self) -> tuple[Lock, bytes]:
        """Return a lock with a new salt."""
        lock = Scrypt(N, R, P, os.urandom(16))
        return lock, self.open(lock)

    def open(self, lock: Lock) -> bytes:
        """Return the key; whether it is the right one shows when it is used."""
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt as Derivation

        if not isinstance(lock, Scrypt):
            raise wrong_key("is sealed for a key and not by a passphrase", "Give the private key.")
        return Derivation(lock.salt, KEY_BYTES, lock.n, lock.r, lock.p).derive(self.text.encode())


@dataclass(frozen=True)
class Recipient:
    """Makes backups that it cannot open."""

    key: X25519PublicKey

    @classmethod
    def of(cls, pem: str) -> Recipient:
        """Read a public key. Raises BasaltError."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            key = load_pem_public_key(pem.encode())
        except (ValueError, UnsupportedAlgorithm):
            raise BasaltError("the recipient is no public key in PEM form", MAKE_KEY) from None
        if not isinstance(key, X25519PublicKey):
            raise BasaltError("the recipient is a key of another kind than X25519", MAKE_KEY)
        return cls(key)

    def lock(self) -> tuple[Lock, bytes]:
        """Return a lock with a key pair of its own, whose private half is forgotten."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        own = X25519PrivateKey.generate()
        lock = Agreement(own.public_key().public_bytes_raw(), fingerprint(self.key))
        return lock, _agreed(own, self.key, lock.ephemeral, self.key)


@dataclass(frozen=True)
class PrivateKey:
    """Opens what was made for it."""

    key: X25519PrivateKey = field(repr=False)

    @classmethod
    def of(cls, pem: str) -> PrivateKey:
        """Read an unencrypted private key. Raises BasaltError."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(pem.encode(), password=None)
        except TypeError:
            raise BasaltError(
                "the private key is encrypted", "Decrypt a copy with `openssl pkey` and remove it afterwards."
            ) from None
        except (ValueError, UnsupportedAlgorithm):
            raise BasaltError("the key is no private key in PEM form", MAKE_KEY) from None
        if not isinstance(key, X25519PrivateKey):
            raise BasaltError("the key is of another kind than X25519", MAKE_KEY)
        return cls(key)

    def open(self, lock: Lock) -> bytes:
        """Return the key that both sides agree upon."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

        if not isinstance(lock, Agreement):
            raise wrong_key("is sealed by a passphrase and not for a key", "Give the passphrase.")
        own = self.key.public_key()
        if fingerprint(own) != lock.recipient:
            found = f"is sealed for the key {lock.recipient}, and this is {fingerprint(own)}"
            raise wrong_key(found, "Give the private key of that one.")
        try:
            return _agreed(self.key, X25519PublicKey.from_public_bytes(lock.ephemeral), lock.ephemeral, own)
        except ValueError:
            raise wrong_key("has a key in its header that nobody can use", "Take another backup.") from None


def fingerprint(key: X25519PublicKey) -> str:
    """Return by what people tell public keys apart: 32 hexadecimal digits."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:32]


def wrong_key(found: str, remedy: str) -> Refused:
    """Return the error for a backup that this does not open."""
    return Refused([Failure(Code.BACKUP_KEY, "backup", found, remedy)])


def _agreed(
    own: X25519PrivateKey, other: X25519PublicKey, ephemeral: bytes, recipient: X25519PublicKey
) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    info = PURPOSE + ephemeral + recipient.public_bytes_raw()
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(own.exchange(other))
