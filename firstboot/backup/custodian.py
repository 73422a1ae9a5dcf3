# SPDX-License-Identifier: Apache-2.0
"""What administrators ask of a control plane's datastore: how it stands, a backup, to become what a backup says.

Or, when the other members are lost, to go on with what this one has.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from firstboot import files
from firstboot.backup import recovering
from firstboot.backup.archive import require_room
from firstboot.backup.building import building, refuse_mount
from firstboot.backup.header import Header, damaged
from firstboot.backup.judging import Judge
from firstboot.backup.locks import Opener, Sealer
from firstboot.backup.making import Source, Taken, taken
from firstboot.backup.places import Decided, Places, remove_tree, scratch
from firstboot.backup.recovering import Survey
from firstboot.codes import Code
from firstboot.datastores.external import not_ours
from firstboot.datastores.store import DatastoreStatus, Store
from firstboot.datastores.zones import placed
from firstboot.failure import BasaltError, Failure, Refused
from firstboot.report.status import now

log = logging.getLogger(__name__)

RECEIVED = "received"
"""Name of the file as it was sent."""
LONGEST = 6 * 3600.0
"""Seconds in which a backup has to be sent or received: a forgotten terminal must not keep others out for ever."""
PATIENCE = 15.0
"""Seconds in which a datastore without a leader may still find one."""


@dataclass
class Custodian:
    """One control plane's.

    source:  what the node is now. Raises BasaltError where there is no datastore
    decided: called when a restore is going to happen
    rest:    within it the datastore is stopped, and so are other units that are named. Raises BasaltError where
             one does not stop
    zones:   tells the zones of machines, by address; None where nobody knows
    """

    source: Callable[[], Source]
    decided: Callable[[], None]
    rest: Callable[..., AbstractAsyncContextManager[None]]
    places: Places = field(default_factory=Places)
    patience: float = PATIENCE
    zones: Callable[[], Awaitable[Mapping[str, str]]] | None = None
    _taking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _restoring: bool = False
    _work: asyncio.Task[Header] | asyncio.Task[Survey] | None = None

    async def status(self) -> DatastoreStatus:
        """Return how the datastore stands, and in which zones its members are."""
        return placed(await self._store.status(), await self.zones() if self.zones else {})

    async def defragment(self) -> None:
        """Give back what deleted data takes on the disk. Raises Refused where the datastore does not need it."""
        await self._store.defragment()

    @asynccontextmanager
    async def backup(self, sealer: Sealer) -> AsyncIterator[Taken]:
        """Take a backup, which is made as its pieces are asked for. Raises BasaltError."""
        source = self._own()
        if self._taking.locked():
            raise _busy("a backup is being taken")
        async with self._taking, taken(source, sealer, self.places.taking) as made:
            yield made

    async def restore(self, opener: Opener, pieces: AsyncIterator[bytes]) -> Header:
        """Receive a backup and decide that this node becomes what it says; the agent then makes it so.

        Raises Refused for a backup that cannot be restored here, and BasaltError. Nothing is left of it then.
        """
        source = self._begin()
        try:
            await self._refuse_partners()
            await _receive(pieces, self.places.receiving)
        except BaseException:
            await self._end()
            raise
        # Who has sent all of it has said what shall be; that he goes away now does not change it.
        self._work = work = asyncio.create_task(self._decide(source, opener))
        return await asyncio.shield(work)

    async def survey(self) -> Survey:
        """Return what a recovery would keep and give up; the datastore is stopped meanwhile, and started again.

        Raises Refused where there can be no recovery, and BasaltError.
        """
        source = self._begin(recovers=True)
        try:
            async with self._salvaged(source) as (found, _):
                return found
        finally:
            await self._end()

    async def recover(self) -> Survey:
        """Decide that this node goes on alone with the data it has; the agent then makes it so.

        Raises Refused where there can be no recovery, and BasaltError. The node is as it was then.
        """
        source = self._begin(recovers=True)
        # What is begun with the datastore stopped is not left half done because somebody goes away.
        self._work = work = asyncio.create_task(self._recover(source))
        return await asyncio.shield(work)

    @asynccontextmanager
    async def undisturbed(self) -> AsyncIterator[Source]:
        """Give what the node is, and keep out restores and recoveries meanwhile. Raises Refused."""
        source = self._begin()
        try:
            yield source
        finally:
            await self._end()

    def _begin(self, recovers: bool = False) -> Source:
        """Return what the node is, and keep out other restores until `_end`. Raises Refused.

        recovers: what is begun may end a move of the datastore, when who makes that is lost
        """
        if self._restoring or self.places.decided.exists():
            raise _busy("a backup is being restored, or the datastore recovered or moved")
        if self.places.moving.exists() and not recovers:
            raise _busy("the datastore is being moved")
        source = self._own()
        self._restoring = True
        return source

    async def _decide(self, source: Source, opener: Opener) -> Header:
        """Look at all that was received, build a datastore of it, and write down that it is the node's."""
        folder = self.places.receiving
        try:
            judge = Judge(source.node, source.kubernetes)
            header, contents = await asyncio.to_thread(judge.judge, folder / RECEIVED, opener, folder)
            if await source.store.revision(contents.snapshot) != header.revision:
                raise damaged("has a snapshot of another revision than its header says")
            decided = Decided(header.created, header.cluster, header.revision, dict(contents.pki))
            async with self._built(source, contents.snapshot):
                await self._refuse_partners()
                # Not in a thread: nobody can end this task while it writes, and take it for undecided.
                decided.save(self.places.decided)
        except BaseException as error:
            log.warning("no backup is restored: %s", error)
            raise
        finally:
            await self._end()
        log.info("the backup of %s, taken at %s, is restored", header.cluster, header.created)
        self.decided()
        return header

    async def _recover(self, source: Source) -> Survey:
        """Build a datastore of what is salvaged, and write down that it is the node's, and the others are out."""
        try:
            async with self._salvaged(source) as (found, snapshot):
                # Less where what was deleted last is compacted already.
                if await source.store.revision(snapshot) > found.revision:
                    raise BasaltError("the snapshot of what is left has more than there was", "Try again.")
                pki = await asyncio.to_thread(recovering.authorities, source)
                cluster = source.node.config.cluster.name
                decided = Decided(now(), cluster, found.revision, pki, alone=source.node.ip)
                async with self._built(source, snapshot):
                    # As above; and the datastore has not run since it was looked at.
                    decided.save(self.places.decided)
        except BaseException as error:
            log.warning("the datastore is not recovered: %s", error)
            raise
        finally:
            await self._end()
        log.info("the datastore goes on with this member alone, from revision %d", found.revision)
        self.decided()
        return found

    @asynccontextmanager
    async def _salvaged(self, source: Source) -> AsyncIterator[tuple[Survey, Path]]:
        """Give what a recovery would keep, and a snapshot of it, while the datastore is stopped."""
        refuse_mount(source.store.folder)
        await recovering.require_loss(source, self.patience)
        async with self.rest():
            with scratch(self.places.salvaging) as folder:
                found, snapshot = await recovering.salvaged(source, folder)
                found.require()
                yield found, snapshot

    def _built(self, source: Source, snapshot: Path) -> AbstractAsyncContextManager[None]:
        """Build the new datastore beside the old one; what goes wrong within undoes it, and that it is decided."""
        return building(source.store, source.node, snapshot, self.places.owner, self.places.decided)

    async def _end(self) -> None:
        try:
            await asyncio.to_thread(remove_tree, self.places.receiving)
        finally:
            self._restoring = False

    async def _refuse_partners(self) -> None:
        """Refuse where another member has the data, too: it would go on with its own."""
        source = self.source()
        others = [ip for ip in source.node.control_planes if ip != source.node.ip]
        try:
            members = [each.address for each in (await source.store.status()).members]
        except (BasaltError, OSError):
            # A datastore that does not work is what backups are for.
            members = []
        if others or len(members) > 1:
            found = f"the datastore has members on other machines: {', '.join(others or members)}"
            remedy = "Restore on a new control plane, or on the last one that is left."
            raise Refused([Failure(Code.NOT_ALONE, "datastore", found, remedy)])
        refuse_mount(source.store.folder)

    def kept(self) -> Path:
        """Return where the backups are that the node has taken by itself. Raises Refused."""
        self._own()
        return self.places.kept

    def _own(self) -> Source:
        """Return what the node is, if its datastore's data is its own to copy and to replace. Raises Refused."""
        source = self.source()
        if not source.node.config.datastore.type.is_ours:
            raise not_ours()
        return source

    @property
    def _store(self) -> Store:
        return self.source().store


async def _receive(pieces: AsyncIterator[bytes], folder: Path) -> None:
    """Write what comes to a file in a new folder. Raises BasaltError when the disk has no room."""
    await asyncio.to_thread(remove_tree, folder)
    files.directory(folder, 0o700)
    with os.fdopen(os.open(folder / RECEIVED, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        try:
            async with asyncio.timeout(LONGEST):
                async for piece in pieces:
                    require_room(folder, len(piece))
                    await asyncio.to_thread(file.write, piece)
        except TimeoutError:
            raise BasaltError("the backup did not arrive in time", "Send it over a faster network.") from None


def _busy(found: str) -> Refused:
    return Refused([Failure(Code.BUSY, "datastore", found, "Wait until it is done.")])
