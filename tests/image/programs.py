# SPDX-License-Identifier: Apache-2.0
"""Reads programs: sections of PE files (UKIs) and ELF files, and what Go wrote into its own about their modules."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap

Data = bytes | mmap

_INFO_HEADER = 32
_INFO_MAGIC = b"\xff Go buildinf:"
# The text of the modules is between two marks of this length, by which a running program finds it.
_MARK = 16


def pe_sections(data: bytes) -> dict[str, bytes]:
    """Return the sections of a PE file by name."""
    (header,) = struct.unpack_from("<I", data, 0x3C)
    assert data[header : header + 4] == b"PE\0\0"
    (count,) = struct.unpack_from("<H", data, header + 6)
    (optional,) = struct.unpack_from("<H", data, header + 20)
    found = {}
    for number in range(count):
        name, size, _, _, offset = struct.unpack_from("<8sIIII", data, header + 24 + optional + 40 * number)
        found[name.rstrip(b"\0").decode()] = data[offset : offset + size]
    return found


@dataclass(frozen=True)
class Section:
    """A section of an ELF file: where it is in the file."""

    name: str
    offset: int
    size: int


def elf_sections(data: Data) -> list[Section]:
    """Return the sections of a 64-bit ELF file, none of any other file."""
    if data[:5] != b"\x7fELF\x02":
        return []
    (table,) = struct.unpack_from("<Q", data, 0x28)
    _, count, names = struct.unpack_from("<HHH", data, 0x3A)
    if not table or not count:
        return []
    entries = [struct.unpack_from("<IIQQQQ", data, table + 64 * number) for number in range(count)]
    strings = entries[names][4]
    return [
        Section(data[strings + name : data.find(b"\0", strings + name)].decode(), offset, size)
        for name, _, _, _, offset, size in entries
    ]


@dataclass(frozen=True)
class GoProgram:
    """What a Go program says of itself: toolchain, and (path, version) of the modules whose code is in it."""

    toolchain: str
    modules: tuple[tuple[str, str], ...]


def go_program(data: Data) -> GoProgram | None:
    """Return what a Go program says, None for any other file."""
    section = next((part for part in elf_sections(data) if part.name == ".go.buildinfo"), None)
    if section is None:
        return None
    info = data[section.offset : section.offset + section.size]
    assert info.startswith(_INFO_MAGIC) and info[15] & 2, "build information of a Go before 1.18"
    toolchain, rest = _string(info, _INFO_HEADER)
    text, _ = _string(info, rest)
    return GoProgram(toolchain.decode(), tuple(_modules(text[_MARK:-_MARK].decode())))


def _modules(text: str) -> Iterator[tuple[str, str]]:
    last: tuple[str, str] | None = None
    for line in [*text.splitlines(), ""]:
        kind, *fields = line.split("\t")
        # A replacement that is a folder has no version to be known by: then the replaced module tells what it is.
        if kind == "=>" and fields[1].startswith("v"):
            last = fields[0], fields[1]
        elif kind != "=>":
            if last:
                yield last
            ours = not fields or fields[0].startswith("basalt.local/")
            last = (fields[0], fields[1]) if kind in ("mod", "dep") and not ours else None


def _string(data: bytes, offset: int) -> tuple[bytes, int]:
    """Return a string with its length in front, in Go's variable-length form, and where it ends."""
    length = shift = 0
    while True:
        byte = data[offset]
        length |= (byte & 0x7F) << shift
        offset, shift = offset + 1, shift + 7
        if byte < 0x80:
            return data[offset : offset + length], offset + length
