# SPDX-License-Identifier: Apache-2.0
"""The encrypted part of a backup: AES-256-GCM in chunks (the STREAM construction), then a check sum of all before it.

A chunk's nonce is its number and whether it is the last one, so chunks can neither change places nor be left out;
the header's bytes are authenticated with each of them. Everything here works piece by piece, in little memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from firstboot.backup.header import Header, damaged
from firstboot.backup.locks import wrong_key

CHUNK = 64 * 1024
TAG = 16
TOGETHER = 16
"""Chunks handed over at a time."""

TRAILER_BYTES = 73
"""Bytes of the last line with the line break before it: `sha256 ` and 64 digits."""


def trailer(digest: str) -> bytes:
    """Return the end of the file; digest: of all before it."""
    return f"\nsha256 {digest}\n".encode()


def seal(header: Header, key: bytes, plain: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the whole file; a file that ends before the trailer is not whole and shows it."""
    digest = hashlib.sha256()
    for piece in _body(header.head, key, plain):
        digest.update(piece)
        yield piece
    yield trailer(digest.hexdigest())


def _body(head: bytes, key: bytes, plain: Iterable[bytes]) -> Iterator[bytes]:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher = AESGCM(key)
    yield head
    sealed: list[bytes] = []
    for number, (last, chunk) in enumerate(_chunks(plain)):
        sealed.append(cipher.encrypt(_nonce(number, last), chunk, head))
        if len(sealed) == TOGETHER:
            yield b"".join(sealed)
            sealed.clear()
    if sealed:
        yield b"".join(sealed)


def _chunks(pieces: Iterable[bytes]) -> Iterator[tuple[bool, bytes]]:
    """Yield chunks and whether each is the last one: that is known only when nothing follows."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) > CHUNK:
            yield False, bytes(waiting[:CHUNK])
            del waiting[:CHUNK]
    yield True, bytes(waiting)


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\1" if last else b"\0")


@dataclass(frozen=True)
class Sealed:
    """A whole file, its check sum compared.

    head: bytes of the header
    body: bytes of the encrypted part
    """

    file: BinaryIO
    header: Header
    head: bytes
    body: int

    @classmethod
    def look(cls, file: BinaryIO) -> Sealed:
        """Read the header and compare the check sum. Raises Refused."""
        header, head = Header.read(file)
        body = file.seek(0, os.SEEK_END) - len(head) - TRAILER_BYTES
        if body < TAG:
            raise damaged("is cut off")
        file.seek(0)
        digest = hashlib.sha256()
        for piece in _exactly(file, len(head) + body):
            digest.update(piece)
        if file.read() != trailer(digest.hexdigest()):
            raise damaged("is cut off or changed: the check sum at its end is another one")
        return cls(file, header, head, body)

    def plain(self, key: bytes) -> Iterator[bytes]:
        """Yield what was sealed, each piece only after it has proved to be genuine. Raises Refused."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        cipher = AESGCM(key)
        self.file.seek(len(self.head))
        left, number = self.body, 0
        while left:
            size = min(left, CHUNK + TAG)
            left -= size
            chunk = b"".join(_exactly(self.file, size))
            try:
                yield cipher.decrypt(_nonce(number, last=not left), chunk, self.head)
            except InvalidTag:
                if number:
                    raise damaged(f"was changed in chunk {number}, and its check sum made to fit") from None
                raise wrong_key(
                    "is not opened by this passphrase or key", "Give the one it was made with."
                ) from None
            number += 1


def _exactly(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        piece = file.read(min(size, TOGETHER * CHUNK))
        if not piece:
            raise damaged("is cut off")
        size -= len(piece)
        yield piece
