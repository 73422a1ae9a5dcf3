# SPDX-License-Identifier: Apache-2.0
"""Checks data against a dm-verity hash tree as the kernel would, block by block."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import BinaryIO

from tests.image.gpt import Partition, Table

_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s")
_AT_ONCE = 1024


def root(table: Table, data: Partition, tree: Partition) -> bytes:
    """Return the root hash of the data; AssertionError where the tree beside it is not the data's."""
    with table.path.open("rb") as file:
        file.seek(tree.offset)
        magic, version, kind, _, name, block, tree_block, blocks, size, salt = _SUPERBLOCK.unpack(
            file.read(_SUPERBLOCK.size)
        )
        assert (magic, version, kind) == (b"verity\0\0", 1, 1)
        assert name.rstrip(b"\0") == b"sha256"
        assert block == tree_block and blocks * block <= data.size
        salted = hashlib.sha256(salt[:size])
        levels = _levels(
            [_digest(salted, part) for part in _blocks(file, data, block, blocks)], salted, block
        )
        file.seek(tree.offset + block)
        for number, level in enumerate(reversed(levels[:-1])):
            assert file.read(len(level)) == level, f"level {number} of the hash tree is not that of the data"
    return levels[-1]


def _blocks(file: BinaryIO, data: Partition, block: int, blocks: int) -> Iterator[bytes]:
    file.seek(data.offset)
    for first in range(0, blocks, _AT_ONCE):
        part = file.read(min(_AT_ONCE, blocks - first) * block)
        yield from (part[start : start + block] for start in range(0, len(part), block))


def _levels(digests: list[bytes], salted: hashlib._Hash, block: int) -> list[bytes]:
    """Return the levels of the tree, the lowest first, and the root hash last."""
    levels = []
    each = block // hashlib.sha256().digest_size
    while True:
        groups = [
            b"".join(digests[start : start + each]).ljust(block, b"\0")
            for start in range(0, len(digests), each)
        ]
        levels.append(b"".join(groups))
        digests = [_digest(salted, group) for group in groups]
        if len(digests) == 1:
            return [*levels, digests[0]]


def _digest(salted: hashlib._Hash, data: bytes) -> bytes:
    state = salted.copy()
    state.update(data)
    return state.digest()
