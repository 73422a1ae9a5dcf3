# SPDX-License-Identifier: Apache-2.0
"""What is inside a backup: a tar file of a fixed form, so that reading it needs neither trust nor extraction.

manifest.json   sha256 and size of each of the others
settings.json   what all nodes of the cluster have in common, see firstboot.cluster.settings
pki/…           authorities and token keys, see firstboot.pki.handover
snapshot        of the datastore, in the form of its own tools
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from firstboot.backup.header import damaged
from firstboot.failure import BasaltError

MANIFEST, SETTINGS, SNAPSHOT, PKI = "manifest.json", "settings.json", "snapshot", "pki/"
SMALL = 1024 * 1024
"""Most bytes of any part but the snapshot."""
PIECE = 1024 * 1024
BLOCK = tarfile.BLOCKSIZE
RESERVE = 256 * 1024**2
"""Bytes of the disk that a restore leaves free: the datastore that runs needs some."""


@dataclass(frozen=True)
class Part:
    """One member of the archive as the manifest has it."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Contents:
    """What was found inside.

    pki:      name, as in firstboot.pki.handover -> PEM
    snapshot: where it was written
    """

    settings: dict[str, Any]
    pki: Mapping[str, str] = field(repr=False)
    snapshot: Path


def pack(settings: Mapping[str, Any], pki: Mapping[str, str], snapshot: Path) -> Iterator[bytes]:
    """Yield the archive; the snapshot's file is read twice and must not change meanwhile."""
    small = {SETTINGS: json.dumps(settings, indent=2).encode()}
    small |= {f"{PKI}{name}": pem.encode() for name, pem in pki.items()}
    parts = {name: Part(hashlib.sha256(data).hexdigest(), len(data)) for name, data in small.items()}
    with snapshot.open("rb") as file:
        digest, size = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
        parts[SNAPSHOT] = Part(digest, size)
        manifest = {"parts": {name: vars(part) for name, part in parts.items()}}
        for name, data in ({MANIFEST: json.dumps(manifest, indent=2).encode()} | small).items():
            yield from _member(name, len(data), [data])
        file.seek(0)
        yield from _member(SNAPSHOT, size, iter(lambda: file.read(PIECE), b""))
    yield bytes(2 * BLOCK)


def _member(name: str, size: int, data: Iterable[bytes]) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    yield info.tobuf(tarfile.GNU_FORMAT)
    yield from data
    yield bytes(-size % BLOCK)


def unpack(plain: Iterable[bytes], folder: Path, keys: Collection[str]) -> Contents:
    """Read an archive; the snapshot goes into a file in the folder.

    keys: names that pki/ has to have, all of them and no others
    Raises Refused for anything that `pack` does not make, and BasaltError when the disk has no room.
    """
    stream = _Stream(iter(plain))
    parts = _parts(stream, {SETTINGS, SNAPSHOT, *(f"{PKI}{name}" for name in keys)})
    small: dict[str, bytes] = {}
    snapshot = folder / SNAPSHOT
    for name, part in parts.items():
        size = stream.member(name)
        if size != part.size or (name != SNAPSHOT and size > SMALL):
            raise damaged(f"{name} has {size} bytes, and its manifest says {part.size}")
        if name == SNAPSHOT:
            digest = _write(stream.pieces(size), snapshot, size)
        else:
            small[name] = b"".join(stream.pieces(size))
            digest = hashlib.sha256(small[name]).hexdigest()
        if digest != part.sha256:
            raise damaged(f"{name} is not what its manifest says")
        stream.padding(size)
    stream.end()
    try:
        settings = json.loads(small.pop(SETTINGS))
        pki = {name.removeprefix(PKI): data.decode("ascii") for name, data in small.items()}
    except (ValueError, RecursionError):
        raise damaged("settings or keys in it are no text of their form") from None
    return Contents(settings, pki, snapshot)


def _parts(stream: _Stream, expected: set[str]) -> dict[str, Part]:
    """Return the manifest."""
    size = stream.member(MANIFEST)
    if size > SMALL:
        raise damaged(f"its manifest has {size} bytes")
    try:
        listed = json.loads(b"".join(stream.pieces(size)))["parts"]
        parts = {str(name): Part(str(each["sha256"]), int(each["size"])) for name, each in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise damaged("its manifest is of another form") from None
    if set(parts) != expected:
        others = ", ".join(sorted(set(parts) ^ expected))
        raise damaged(f"it has other parts than a backup of this datastore: {others}")
    stream.padding(size)
    return parts


def _write(pieces: Iterable[bytes], path: Path, size: int) -> str:
    """Write the snapshot and return its digest."""
    require_room(path.parent, size)
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        _copy(pieces, file, digest.update)
    return digest.hexdigest()


def _copy(pieces: Iterable[bytes], file: BinaryIO, look: Any) -> None:
    for piece in pieces:
        look(piece)
        file.write(piece)


def require_room(folder: Path, size: int) -> None:
    """Raise BasaltError when so many bytes more would leave the disk too full."""
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if free - size < RESERVE:
        raise BasaltError(
            f"{size // 1024**2} MiB are needed in {folder}, and {free // 1024**2} MiB are free",
            f"Free some space: {RESERVE // 1024**2} MiB have to be left.",
        )


class _Stream:
    """The archive as it comes out of decryption."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def member(self, name: str) -> int:
        """Read the head of the next member, which has to be a plain file of that name; return its size."""
        try:
            info = tarfile.TarInfo.frombuf(b"".join(self.pieces(BLOCK)), "ascii", "strict")
        except (tarfile.HeaderError, UnicodeError, ValueError):
            raise damaged(f"there is no {name} where one has to be") from None
        if info.type != tarfile.REGTYPE or info.name != name or info.size < 0:
            raise damaged(f"there is {info.name!r} in the place of {name}")
        return info.size

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield exactly so many bytes."""
        while size:
            piece = self._left or next(self._pieces, None)
            if piece is None:
                raise damaged("what is inside ends too early")
            self._left = piece[size:]
            size -= len(piece[:size])
            yield piece[: len(piece) - len(self._left)]

    def padding(self, size: int) -> None:
        """Pass over what follows a member of that size."""
        for _ in self.pieces(-size % BLOCK):
            pass

    def end(self) -> None:
        """Read to the end, so that it has proved to be the end."""
        rest = b"".join(self.pieces(2 * BLOCK))
        if any(rest) or self._left or any(self._pieces):
            raise damaged("something follows behind its end")
