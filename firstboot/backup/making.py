# SPDX-License-Identifier: Apache-2.0
"""Taking a backup of a node that runs: the datastore writes its snapshot, which is sealed as it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from firstboot.backup.archive import SNAPSHOT, pack, require_room
from firstboot.backup.header import Header
from firstboot.backup.locks import Sealer
from firstboot.backup.places import scratch
from firstboot.backup.sealed import seal
from firstboot.cluster import settings
from firstboot.datastores.store import Store
from firstboot.pki import handover
from firstboot.pki.catalogue import Catalogue
from firstboot.report.status import now
from firstboot.services.model import Node


@dataclass(frozen=True)
class Source:
    """What a backup is taken of.

    basalt, kubernetes: versions of the image; None where unknown
    """

    node: Node
    certificates: Catalogue
    store: Store
    basalt: str | None
    kubernetes: str | None


@dataclass(frozen=True)
class Taken:
    """A backup that is on its way."""

    header: Header
    sealed: Iterator[bytes]

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the file; each piece is made outside of the event loop."""
        while (piece := await asyncio.to_thread(next, self.sealed, None)) is not None:
            yield piece


@asynccontextmanager
async def taken(source: Source, sealer: Sealer, folder: Path) -> AsyncIterator[Taken]:
    """Take a backup.

    folder: is made, has the snapshot as long as the backup is being sealed, and is removed
    Raises BasaltError.
    """
    with scratch(folder) as place:
        snapshot = place / SNAPSHOT
        # As long as there is a database of this size, its log and a copy have to find room, too.
        require_room(place, (await source.store.status()).size)
        await source.store.snapshot(snapshot)
        revision = await source.store.revision(snapshot)
        pki = await asyncio.to_thread(handover.give, source.certificates)
        lock, key = await asyncio.to_thread(sealer.lock)
        config = source.node.config
        header = Header(
            created=now(),
            cluster=config.cluster.name,
            basalt=source.basalt or "",
            kubernetes=source.kubernetes or "",
            datastore=config.datastore.type.value,
            revision=revision,
            lock=lock,
        )
        yield Taken(header, seal(header, key, pack(settings.of(config), pki, snapshot)))
