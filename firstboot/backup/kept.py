# SPDX-License-Identifier: Apache-2.0
"""Backups that a control plane has taken by itself: one folder, whose names tell what they are and when."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from firstboot import files
from firstboot.backup.archive import require_room
from firstboot.backup.places import scratch

NAME = re.compile(r"basalt-[a-z0-9-]{1,63}-(\d{8}T\d{6}Z)\.backup")
TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Kept:
    """One of them; created: RFC 3339, UTC; size: bytes."""

    name: str
    created: str
    size: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        return asdict(self)

    @property
    def when(self) -> float:
        """When it was taken, seconds of the epoch."""
        return datetime.fromisoformat(self.created).timestamp()


def name_of(cluster: str, created: str) -> str:
    """Return what a backup is called; created: RFC 3339, UTC."""
    return f"basalt-{cluster}-{datetime.fromisoformat(created).strftime(TIME)}.backup"


def listed(folder: Path) -> tuple[Kept, ...]:
    """Return all that are there, the newest first; what else lies in the folder is none of ours."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if (match := NAME.fullmatch(path.name)) and path.is_file() and not path.is_symlink():
            created = datetime.strptime(match[1], TIME).replace(tzinfo=UTC)
            found.append(Kept(path.name, f"{created:%Y-%m-%dT%H:%M:%SZ}", path.stat().st_size))
    return tuple(sorted(found, key=lambda each: (each.created, each.name), reverse=True))


async def keep(pieces: AsyncIterator[bytes], folder: Path, name: str, count: int) -> None:
    """Write one and remove the oldest beyond a number; it has its name only when all of it is on disk.

    Raises BasaltError; then those that were there are all there still.
    """
    files.directory(folder, 0o700)
    with scratch(folder / "new") as place:
        path = place / name
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            async for piece in pieces:
                require_room(place, len(piece))
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path, folder / name)
        files.sync_directory(folder)
    for old in listed(folder)[count:]:
        files.remove(folder / old.name)
