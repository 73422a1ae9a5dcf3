# SPDX-License-Identifier: Apache-2.0
"""Looks for private keys, and into an initrd."""

from __future__ import annotations

import re
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

from tests.image.built import tool

_HINT = b"PRIVATE KEY"
# With a line of the key itself: programs that read keys have the first line in them alone.
_KEY = re.compile(
    rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----\s*\r?\n(?:[\w-]+: [^\n]*\n|\s*\n)*[A-Za-z0-9+/=]{16,}"
)
_ZSTD = b"\x28\xb5\x2f\xfd"
_CPIO = b"070701"
_CPIO_HEAD = 110


def has_key(data: bytes | mmap) -> bool:
    """Tell whether a private key is in some data, in PEM or armored OpenPGP."""
    return data.find(_HINT) >= 0 and _KEY.search(data) is not None


def files(folder: Path) -> Iterator[Path]:
    """Yield every regular file that has content, under a folder."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size:
            yield path


def content(path: Path) -> mmap:
    """Return a file's content without reading it before somebody looks."""
    with path.open("rb") as file:
        return mmap(file.fileno(), 0, access=ACCESS_READ)


def initrd_files(data: bytes, scratch: Path) -> dict[str, bytes]:
    """Return the files in an initrd: archives one after the other, each packed, with zeros between them."""
    found: dict[str, bytes] = {}
    offset = 0
    while offset < len(data):
        end = _frame_end(data, offset)
        packed, plain = scratch / "initrd.zst", scratch / "initrd"
        packed.write_bytes(data[offset:end])
        tool("zstd", "-q", "-d", "-f", packed, "-o", plain)
        found |= dict(_cpio(plain.read_bytes()))
        offset = len(data) - len(data[end:].lstrip(b"\0"))
    return found


def _frame_end(data: bytes, start: int) -> int:
    """Return where a zstd frame ends (RFC 8878, section 3.1.1)."""
    assert data[start : start + 4] == _ZSTD, f"what is at {start} in the initrd?"
    describes = data[start + 4]
    single = describes >> 5 & 1
    offset = start + 5 + (1 - single) + (0, 1, 2, 4)[describes & 3] + (single, 2, 4, 8)[describes >> 6]
    last = False
    while not last:
        block = int.from_bytes(data[offset : offset + 3], "little")
        last = bool(block & 1)
        # A block of one repeated byte has that byte alone.
        offset += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
    return offset + (4 if describes & 4 else 0)


def _cpio(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of the files of an archive of the form the kernel reads."""
    offset = 0
    while data[offset : offset + 6] == _CPIO:
        fields = [int(data[offset + at : offset + at + 8], 16) for at in range(6, _CPIO_HEAD, 8)]
        size, length = fields[6], fields[11]
        name = data[offset + _CPIO_HEAD : offset + _CPIO_HEAD + length - 1].decode()
        begin = _aligned(offset + _CPIO_HEAD + length)
        if name == "TRAILER!!!":
            return
        yield name, data[begin : begin + size]
        offset = _aligned(begin + size)
    raise AssertionError(f"the archive breaks off at {offset}")


def _aligned(offset: int) -> int:
    return (offset + 3) & ~3
