# SPDX-License-Identifier: Apache-2.0
"""The folders of volumes on a node's disk, and what is left of that disk.

A folder has three names in its life: `.new-NAME` while it is made, `NAME` from before the first moment that a
PersistentVolume can name it, `.old-NAME` from the moment that its data is not wanted any more. So the name says after a
power cut what has to be done. Projects are known from the folders and from what the kernel counts, and nowhere else.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path

from firstboot.files import sync_directory
from firstboot.storage import SYSTEM
from firstboot.storage.quota import Quota, Quotas

PREFIX = "pvc-"
"""Of a volume's name; the uid of its claim follows."""
FIRST_PROJECT = 882_000_000
"""Far from what others choose: the kubelet counts on from 2^20, people from 1."""
RESERVE = 10
"""Parts of a hundred of the system's own disk that are promised to nobody: the kubelet evicts pods below five."""
FEWEST_FILES = 1024
"""That each volume may have, however small it is."""
BATCH = 1000
"""Files that are removed between two looks at a folder: it may have more of them than fit in memory."""


class Stage(StrEnum):
    """What a folder is in; the value leads its name."""

    NEW = ".new-"
    USED = ""
    OLD = ".old-"


@dataclass(frozen=True)
class Folder:
    """One that is there; name: of its volume."""

    name: str
    stage: Stage
    project: int
    quota: Quota


@dataclass(frozen=True)
class Room:
    """Bytes of the disk, and those of them that can be promised to new volumes."""

    size: int
    left: int


@dataclass(frozen=True)
class Volumes:
    """Those in one folder; system: where that is on the same disk, a part is kept for the system."""

    place: Path
    quotas: Quotas
    system: Path = SYSTEM

    def problem(self) -> str | None:
        """Return why there can be no volumes here and what to do, in a line; None when there can."""
        if self.place.is_symlink() or not self.place.is_dir():
            return f"{self.place} is no folder: make it, or mount the disk that it is on, or set another `local-path`"
        try:
            found = self.quotas.problem()
            # What is in a project cannot be moved into another one.
            if found is None and self.quotas.project(self.place):
                found = "is part of a project itself", "set another `local-path`"
        except OSError as error:
            found = f"cannot be used: {error.strerror}", "look for disk errors in `journalctl -k`"
        return f"{self.place} {found[0]}: {found[1]}" if found else None

    def path(self, name: str, stage: Stage = Stage.USED) -> Path:
        """Return where the volume of a name is, in a stage of its life."""
        return self.place / f"{stage}{name}"

    def folders(self) -> list[Folder]:
        """Return all that are there, whatever their stage; other files and folders are nobody's business."""
        return [each for path in sorted(self.place.iterdir()) if (each := self._folder(path)) is not None]

    def room(self, folders: list[Folder]) -> Room:
        """Return what can be promised: what is free, without what volumes were promised and have not used yet."""
        found = os.statvfs(self.place)
        size, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
        owed = sum(max(0, each.quota.limit - each.quota.used) for each in folders if each.stage is Stage.USED)
        shared = self.place.stat().st_dev == self.system.stat().st_dev
        reserve = size * RESERVE // 100 if shared else 0
        return Room(size, max(0, free - owed - reserve))

    def make(self, name: str, size: int) -> None:
        """Have an empty folder with a limit, which is on disk when this returns. Raises OSError."""
        new, used = self.path(name, Stage.NEW), self.path(name)
        if not used.exists():
            with suppress(FileExistsError):
                os.mkdir(new, 0o700)
            # Whoever a pod's program is, it may write. Nobody gets here but by a mount into a pod.
            os.chmod(new, 0o777)
            project = self.quotas.project(new) or self._free_project()
            self._limit(project, size)
            self.quotas.assign(new, project)
            os.rename(new, used)
        else:
            self.limit(name, size)
        sync_directory(self.place)

    def limit(self, name: str, size: int) -> None:
        """Give a volume another limit. Raises OSError."""
        path = self.path(name)
        project = self.quotas.project(path)
        if not project:
            # Somebody has put it back by hand. Project 0 is all that is in none.
            project = self._free_project()
            self.quotas.assign(path, project)
        self._limit(project, size)
        sync_directory(path)

    def remove(self, name: str) -> None:
        """Remove a volume, used or half removed, and all its data. Raises OSError."""
        used, old = self.path(name), self.path(name, Stage.OLD)
        if used.exists():
            os.rename(used, old)
            # From here on nobody takes the rest for data of somebody who lost his PersistentVolume.
            sync_directory(self.place)
        if old.exists():
            if project := self.quotas.project(old):
                # To remove takes a little room, too; and what left its project by chattr(1) can be moved nowhere else.
                self.quotas.assign(old, project, inherited=False)
                self.quotas.set(project, 0, 0)
            _clear(old)
            os.rmdir(old)
            sync_directory(self.place)

    def drop(self, name: str, stage: Stage) -> bool:
        """Remove a folder if it is empty; whether it was. Raises OSError."""
        path = self.path(name, stage)
        project = self.quotas.project(path)
        try:
            os.rmdir(path)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            return False
        if project:
            self.quotas.set(project, 0, 0)
        return True

    def _folder(self, path: Path) -> Folder | None:
        stage = next(each for each in (Stage.NEW, Stage.OLD, Stage.USED) if path.name.startswith(each))
        name = path.name.removeprefix(stage)
        if not name.startswith(PREFIX) or path.is_symlink() or not path.is_dir():
            return None
        try:
            project = self.quotas.project(path)
        except FileNotFoundError:
            return None
        return Folder(name, stage, project, self.quotas.get(project) if project else Quota())

    def _free_project(self) -> int:
        """Return one that no folder is in and that has nothing: what is still open counts until it is closed."""
        taken = {each.project for each in self.folders()}
        project = FIRST_PROJECT
        while project in taken or self.quotas.get(project).used_files:
            project += 1
        return project

    def _limit(self, project: int, size: int) -> None:
        """Limit bytes, and files to the same share of what the disk has: it can be full of empty ones, too."""
        disk = os.statvfs(self.place)
        total = disk.f_blocks * disk.f_frsize
        files = max(FEWEST_FILES, size * disk.f_files // total) if disk.f_files else 0
        self.quotas.set(project, size, files)


def _clear(folder: Path) -> None:
    """Remove all that is in a folder, however much and however deep; symbolic links are not followed.

    A folder in it is moved to the top before it is looked into, so that no depth is too deep. What is mounted in it
    cannot be moved, and raises OSError.
    """
    with _opened(folder) as top:
        while found := _some(top):
            for name, is_folder in found:
                if not is_folder:
                    os.unlink(name, dir_fd=top)
                    continue
                with _opened(name, top) as inner:
                    while inside := _some(inner):
                        for each, deeper in inside:
                            if deeper:
                                other = secrets.token_hex(16)
                                os.rename(each, other, src_dir_fd=inner, dst_dir_fd=top)
                            else:
                                os.unlink(each, dir_fd=inner)
                os.rmdir(name, dir_fd=top)


def _some(descriptor: int) -> list[tuple[str, bool]]:
    """Return the first names in an open folder, each with whether it is a folder."""
    with os.scandir(descriptor) as entries:
        return [(each.name, each.is_dir(follow_symlinks=False)) for each in islice(entries, BATCH)]


@contextmanager
def _opened(path: Path | str, within: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
