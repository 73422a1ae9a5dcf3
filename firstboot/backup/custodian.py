# SPDX-License-Identifier: Apache-2.0
"""What administrators ask of a control plane's datastore: how it stands, a backup, and to become what a backup says."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from firstboot import files
from firstboot.backup.archive import require_room
from firstboot.backup.header import Header, damaged
from firstboot.backup.judging import Judge
from firstboot.backup.locks import Opener, Sealer
from firstboot.backup.making import Source, Taken, taken
from firstboot.backup.places import Decided, Places, built, remove_tree, replaced, settle
from firstboot.codes import Code
from firstboot.datastores.external import not_ours
from firstboot.datastores.store import DatastoreStatus, Store
from firstboot.failure import BasaltError, Failure, Refused

log = logging.getLogger(__name__)

RECEIVED = "received"
"""Name of the file as it was sent."""
LONGEST = 6 * 3600.0
"""Seconds in which a backup has to be sent or received: a forgotten terminal must not keep others out for ever."""


@dataclass
class Custodian:
    """One control plane's.

    source:  what the node is now. Raises BasaltError where there is no datastore
    decided: called when a restore is going to happen
    """

    source: Callable[[], Source]
    decided: Callable[[], None]
    places: Places = field(default_factory=Places)
    _taking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _restoring: bool = False
    _work: asyncio.Task[Header] | None = None

    async def status(self) -> DatastoreStatus:
        """Return how the datastore stands."""
        return await self._store.status()

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
        if self._restoring or self.places.decided.exists():
            raise _busy("a backup is being restored")
        source = self._own()
        self._restoring = True
        try:
            await self._refuse_partners()
            await _receive(pieces, self.places.receiving)
        except BaseException:
            await self._end()
            raise
        # Who has sent all of it has said what shall be; that he goes away now does not change it.
        self._work = asyncio.create_task(self._decide(source, opener))
        return await asyncio.shield(self._work)

    async def _decide(self, source: Source, opener: Opener) -> Header:
        """Look at all that was received, build a datastore of it, and write down that it is the node's."""
        folder, new = self.places.receiving, built(source.store.folder)
        try:
            judge = Judge(source.node, source.kubernetes)
            header, contents = await asyncio.to_thread(judge.judge, folder / RECEIVED, opener, folder)
            if await source.store.revision(contents.snapshot) != header.revision:
                raise damaged("has a snapshot of another revision than its header says")
            # What an earlier restore has left would look like the end of this one.
            for left in (new, replaced(source.store.folder)):
                await asyncio.to_thread(remove_tree, left)
            await source.store.build(source.node, contents.snapshot, new)
            await asyncio.to_thread(settle, new, self.places.owner)
            await self._refuse_partners()
            decided = Decided(header.created, header.cluster, header.revision, dict(contents.pki))
            # Not in a thread: nobody can end this task while it writes, and take it for undecided.
            decided.save(self.places.decided)
        except BaseException as error:
            log.warning("no backup is restored: %s", error)
            await asyncio.to_thread(self._undo, new)
            raise
        finally:
            await self._end()
        log.info("the backup of %s, taken at %s, is restored", header.cluster, header.created)
        self.decided()
        return header

    def _undo(self, new: Path) -> None:
        """Remove what was built, but never from under a record that says it is the node's."""
        files.remove(self.places.decided)
        remove_tree(new)

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
        if os.path.ismount(source.store.folder):
            raise BasaltError(
                f"{source.store.folder} is a file system of its own and cannot be exchanged",
                "Restore on a node whose state is on one file system.",
            )

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
