# SPDX-License-Identifier: Apache-2.0
"""The end of a move of the datastore: the new one takes the old one's place, is tried, and the old data is put away.

Until the new datastore has answered, nothing of the old one is touched: what does not start is taken away again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from firstboot import files
from firstboot.backup.places import Places, built, exchange, remove_tree, replaced, sealed
from firstboot.cluster.membership import Membership
from firstboot.config import DatastoreType
from firstboot.failure import BasaltError
from firstboot.moving.records import Failed, Moved, Moving, authority_files
from firstboot.pki.catalogue import Catalogue
from firstboot.probes import Probe
from firstboot.report.status import now
from firstboot.services.model import Node
from firstboot.steps.model import Finding, Machine
from firstboot.steps.units import busy

log = logging.getLogger(__name__)

Describe = Callable[[DatastoreType], Catalogue]
"""From a datastore to the keys and certificates of the node with it."""

TRIAL_SECONDS = 300.0
"""How long a new datastore may take to answer; an emulated machine needs a minute."""


@dataclass(frozen=True)
class Place:
    """Authority and data of the new datastore are where it looks for them, or those of the old one again.

    units: all that use either datastore; they are stopped, and stay so until this is done
    """

    units: tuple[str, ...]
    places: Places
    describe: Describe = field(repr=False)
    name: str = "move"
    needs: tuple[str, ...] = ()
    lasts: ClassVar[bool] = False

    async def check(self, machine: Machine) -> Finding | None:
        """Look whether everything rests, and whether anything is decided."""
        record = await asyncio.to_thread(Moving.load, self.places.moving)
        if record is None:
            return None
        if unit := next(busy(self.units, machine.units), None):
            return Finding(f"{unit}.service", "wait", "is stopping")
        if record.failed:
            return Finding(str(self.places.folder(record.to)), "remove", "the new datastore did not start")
        if not record.decided:
            return Finding("datastore", "wait", f"{record.host} moves it to {record.to}")
        return Finding(str(self.places.folder(record.to)), "exchange", f"the datastore becomes {record.to}")

    async def apply(self, machine: Machine) -> None:
        """Put them there, and note that they are."""
        await asyncio.to_thread(self._place)

    def _place(self) -> None:
        record = Moving.load(self.places.moving)
        if record is None:
            return
        folder = self.places.folder(record.to)
        lost = record.founds and not (built(folder).exists() or replaced(folder).exists())
        if record.failed or lost:
            self._take_back(record.to, record.failed or f"{built(folder)} is lost")
            return
        if record.founds:
            exchange(folder)
        else:
            remove_tree(folder)
        described = self.describe(record.to)
        for directory in described.directories:
            files.directory(directory)
        files.write_all(authority_files(described.authority(f"{record.to}/ca"), record.pki))
        if (membership := Membership.load(self.places.membership)) is not None:
            replace(membership, peers=record.peers).save(self.places.membership)
        replace(record, placed=True).save(self.places.moving)

    def _take_back(self, to: DatastoreType, why: str) -> None:
        log.error("the datastore is what it was: %s", why)
        Failed(to.value, now(), why).save(self.places.move_failed)
        remove_tree(self.places.folder(to))
        files.remove(self.places.moving)
        self.places.sweep()


@dataclass(frozen=True)
class GoBack:
    """The new datastore answers in time, or the old one shall have its place again.

    Who joins a new datastore that works elsewhere has none to go back to, and goes on trying.

    probe: of the new datastore
    age:   seconds for which it has been tried
    """

    probe: Probe
    places: Places
    age: float
    name: str = "move-back"
    needs: tuple[str, ...] = ()
    lasts: ClassVar[bool] = False

    async def check(self, machine: Machine) -> Finding | None:
        """Ask it when its time is over; one that has answered before has acknowledged writes since."""
        record = await asyncio.to_thread(Moving.load, self.places.moving)
        if record is None or not record.founds or self.age < TRIAL_SECONDS or self._answered(record):
            return None
        reason = await machine.ask(self.probe)
        return Finding("datastore", "go-back", self._why(record, reason)) if reason else None

    async def apply(self, machine: Machine) -> None:
        """Write down that the move has failed; the next pass ends it."""
        record, reason = Moving.load(self.places.moving), await machine.ask(self.probe)
        if record is not None and reason is not None:
            failed = replace(record, placed=False, failed=self._why(record, reason), pki={})
            failed.save(self.places.moving)

    def _why(self, record: Moving, reason: str) -> str:
        return f"{record.to} does not start: {reason}"

    def _answered(self, record: Moving) -> bool:
        moved = Moved.load(self.places.moved)
        return moved is not None and moved.move == record.move


@dataclass(frozen=True)
class Settle:
    """The new datastore answers, so it is the node's, and the data of the old one is put away.

    node: as it is with the new datastore
    """

    node: Node = field(repr=False)
    places: Places
    name: str = "moved"
    needs: tuple[str, ...] = ("datastore",)
    lasts: ClassVar[bool] = False

    async def check(self, machine: Machine) -> Finding | None:
        """There is always something to do as long as there is a record of a move."""
        return Finding(str(self.places.moved), "write", f"the datastore is {self.node.config.datastore.type}")

    async def apply(self, machine: Machine) -> None:
        """Write it down first: from then on the old data is old."""
        await asyncio.to_thread(self._settle)

    def _settle(self) -> None:
        record = Moving.load(self.places.moving)
        if record is None:
            return
        before = other(record.to)
        awaited = (
            tuple(host for host in self.node.control_planes if host != self.node.ip) if record.founds else ()
        )
        Moved(record.to, record.move, now(), before.value, awaited).save(self.places.moved)
        self._put_away(before)
        # Who was asked before the new authority was everywhere may have been told that he is out.
        files.remove(self.places.left_behind)
        files.remove(self.places.moving)
        self.places.sweep()

    def _put_away(self, datastore: DatastoreType) -> None:
        folder = self.places.folder(datastore)
        kept = sealed(folder)
        try:
            if folder.exists() and not kept.exists():
                folder.rename(kept)
                files.sync_directory(folder.parent)
        except OSError as error:
            raise BasaltError(f"{folder} cannot be put away: {error.strerror}") from error
        if kept.exists():
            files.directory(kept, 0o700, None if self.places.owner is None else ("root", "root"))


def other(datastore: DatastoreType) -> DatastoreType:
    """Return the other one of the two that a cluster's own control planes can run."""
    return DatastoreType.ETCD if datastore is DatastoreType.DQLITE else DatastoreType.DQLITE
