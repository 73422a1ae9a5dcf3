# SPDX-License-Identifier: Apache-2.0
"""Where backups and restores keep what they need, and how a restored datastore gets into its place.

A restore is decided by a record, which is written when everything else is on disk, and ended by removing it. In
between, `exchange` may be cut off at any point and is called again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from firstboot import files, paths
from firstboot.cluster.rotation import FILE as ROTATION
from firstboot.config import DatastoreType
from firstboot.datastores import dqlite, etcd
from firstboot.failure import BasaltError
from firstboot.moving.records import FAILED, MOVED, MOVING
from firstboot.record import Record


@dataclass(frozen=True)
class Decided(Record):
    """A restore that is going to happen, whatever comes in between.

    created, cluster, revision: of the backup
    pki:   authorities and token keys that take the place of the node's own, see firstboot.pki.handover
    alone: address of a node that is recovered, and has no partners any more; empty for a backup
    """

    created: str
    cluster: str
    revision: int
    pki: dict[str, str] = field(repr=False)
    alone: str = ""

    REMEDY: ClassVar[str] = (
        f"Remove {paths.STATE}/restore.json, and restore or recover again when the node is up."
    )


@dataclass(frozen=True)
class Places:
    """Folders and files on the node.

    datastores: folders of dqlite's and of etcd's data; owner: of the data, None for the present user
    """

    state: Path = paths.STATE
    datastores: tuple[Path, ...] = (dqlite.FOLDER, etcd.FOLDER)
    owner: files.Owner | None = ("datastore", "datastore")

    def folder(self, datastore: DatastoreType) -> Path:
        """Where the data of a datastore is."""
        return self.datastores[0 if datastore is DatastoreType.DQLITE else 1]

    @property
    def decided(self) -> Path:
        """The record of a restore that is going to happen."""
        return self.state / "restore.json"

    @property
    def receiving(self) -> Path:
        """Where a backup is received and looked at."""
        return self.state / "restore"

    @property
    def taking(self) -> Path:
        """Where a backup's snapshot waits to be sealed."""
        return self.state / "taking"

    @property
    def salvaging(self) -> Path:
        """Where the data of a member that has lost the others is looked at."""
        return self.state / "salvage"

    @property
    def membership(self) -> Path:
        """The node's record of a cluster of several machines."""
        return self.state / "membership.json"

    @property
    def rotation(self) -> Path:
        """The node's record of a rotation of the cluster's CA."""
        return self.membership.with_name(ROTATION)

    @property
    def left_behind(self) -> Path:
        """The record that the cluster goes on without this control plane."""
        return self.state / "left-behind.json"

    @property
    def moving(self) -> Path:
        """The record of a move of the datastore that the control plane takes part in."""
        return self.state / MOVING

    @property
    def moved(self) -> Path:
        """The record of what the datastore is since it was moved."""
        return self.state / MOVED

    @property
    def move_failed(self) -> Path:
        """The record that the new datastore of a move did not start."""
        return self.state / FAILED

    @property
    def kept(self) -> Path:
        """Where the node's own backups are."""
        return self.state / "backups"

    @property
    def unfinished(self) -> bool:
        """Whether the node is on its way to another datastore, or to other data."""
        return self.decided.exists() or self.moving.exists()

    def sweep(self) -> None:
        """Remove what a power cut has left of backups, restores and moves that were not decided."""
        if self.unfinished:
            return
        for folder in self.datastores:
            remove_tree(built(folder))
            remove_tree(replaced(folder))
        for folder in (self.receiving, self.taking, self.salvaging):
            remove_tree(folder)


def built(folder: Path) -> Path:
    """Where the new datastore waits: beside the old one, so that a rename is enough."""
    return folder.with_name(f".{folder.name}.restored")


def replaced(folder: Path) -> Path:
    """Where the old datastore goes."""
    return folder.with_name(f".{folder.name}.replaced")


def sealed(folder: Path) -> Path:
    """Where the data of a datastore is kept whose objects are in another one."""
    return folder.with_name(f".{folder.name}.moved")


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Give an empty folder for root alone, and remove it with all that is in it."""
    remove_tree(folder)
    files.directory(folder, 0o700)
    try:
        yield folder
    finally:
        remove_tree(folder)


def settle(folder: Path, owner: files.Owner | None) -> None:
    """Give all of the folder to the owner and force it to disk. Raises BasaltError."""
    try:
        for parent, folders, names in os.walk(folder):
            for path in (Path(parent, name) for name in names):
                _settle(path, owner)
            for path in (Path(parent, name) for name in folders):
                files.directory(path, 0o700, owner)
            files.directory(Path(parent), 0o700, owner)
            files.sync_directory(Path(parent))
        files.sync_directory(folder.parent)
    except OSError as error:
        raise BasaltError(f"{error.filename or folder} cannot be written: {error.strerror}") from error


def _settle(path: Path, owner: files.Owner | None) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if owner is not None:
            os.fchown(descriptor, *files.numbers(owner))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(folder: Path) -> None:
    """Put the datastore that was built in the place of the old one; nothing may use either. Raises BasaltError."""
    new, old = built(folder), replaced(folder)
    if not new.exists():
        if old.exists():
            return
        raise BasaltError(f"{new}, which was built of the backup, is lost", Decided.REMEDY)
    try:
        if folder.exists():
            # Of an earlier restore, or made by somebody between two attempts at this one.
            remove_tree(old)
            folder.rename(old)
        else:
            # By the old one an exchange is known to have happened.
            old.mkdir(exist_ok=True)
        files.sync_directory(folder.parent)
        new.rename(folder)
        files.sync_directory(folder.parent)
    except OSError as error:
        raise BasaltError(f"{folder} cannot be exchanged: {error.strerror}") from error


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, if there is one. Raises BasaltError."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise BasaltError(f"{folder} cannot be removed: {error.strerror}") from error
