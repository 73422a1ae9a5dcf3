# SPDX-License-Identifier: Apache-2.0
"""Reads a disk's partition table (UEFI specification, chapter 5)."""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

SECTOR = 512
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")


class Kind(StrEnum):
    """Types of partitions, as the Discoverable Partitions Specification has them for x86-64."""

    ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
    USR = "8484680c-9521-48c6-9c11-b0720656f69e"
    USR_VERITY = "77ff5f63-e7b6-4633-acf4-1565b864c0e6"
    USR_VERITY_SIG = "e7bb33fb-06cf-4e81-8273-e543b413e2e2"


@dataclass(frozen=True)
class Partition:
    """One entry: type and identifier as UUIDs, offset and size in bytes."""

    type: str
    uuid: uuid.UUID
    offset: int
    size: int
    flags: int
    label: str


@dataclass(frozen=True)
class Table:
    """A table whose check sums were right."""

    path: Path
    partitions: tuple[Partition, ...]

    def find(self, kind: Kind, label: str) -> Partition:
        """Return the one partition of a type and label."""
        found = [entry for entry in self.partitions if (entry.type, entry.label) == (kind, label)]
        assert len(found) == 1, f"{len(found)} partitions {kind.name} {label}"
        return found[0]

    def read(self, partition: Partition, size: int | None = None) -> bytes:
        """Return the first bytes of a partition, all of them without a size."""
        with self.path.open("rb") as file:
            file.seek(partition.offset)
            return file.read(partition.size if size is None else size)


def read(path: Path) -> Table:
    """Read the table at a disk's beginning; AssertionError where it or the copy at the end is damaged."""
    with path.open("rb") as file:
        entries, copy = _entries(file, 1)
        backup, _ = _entries(file, copy)
    assert entries == backup, "the table at the end of the disk is another one"
    found = (
        _partition(entries[start : start + _ENTRY.size]) for start in range(0, len(entries), _ENTRY.size)
    )
    return Table(path, tuple(entry for entry in found if entry))


def _entries(file: BinaryIO, sector: int) -> tuple[bytes, int]:
    """Return the entries of the table whose header is in a sector, and the sector of the other header."""
    file.seek(sector * SECTOR)
    header = file.read(_HEADER.size)
    magic, _, length, crc, _, own, other, *_, first, count, size, entries_crc = _HEADER.unpack(header)
    assert magic == b"EFI PART", f"no partition table in sector {sector}"
    assert (length, own, size) == (_HEADER.size, sector, _ENTRY.size)
    assert zlib.crc32(header[:16] + bytes(4) + header[20:]) == crc, f"header in sector {sector}: check sum"
    file.seek(first * SECTOR)
    entries = file.read(count * size)
    assert zlib.crc32(entries) == entries_crc, f"entries of the header in sector {sector}: check sum"
    return entries, other


def _partition(data: bytes) -> Partition | None:
    kind, name, first, last, flags, label = _ENTRY.unpack(data)
    if not any(kind):
        return None
    return Partition(
        type=str(uuid.UUID(bytes_le=kind)),
        uuid=uuid.UUID(bytes_le=name),
        offset=first * SECTOR,
        size=(last - first + 1) * SECTOR,
        flags=flags,
        label=label.decode("utf-16le").rstrip("\0"),
    )
