# SPDX-License-Identifier: Apache-2.0
"""A control plane with a datastore for tests: real keys, files and formats; only the datastore itself is a folder."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from firstboot import pki
from firstboot.backup.custodian import Custodian
from firstboot.backup.locks import Sealer
from firstboot.backup.making import Source
from firstboot.backup.places import Places
from firstboot.codes import Code
from firstboot.config import Config
from firstboot.datastores.store import DatastoreStatus, Member, Salvaged, Store
from firstboot.failure import BasaltError, Failure, Refused
from firstboot.pki.catalogue import Catalogue, catalogue
from firstboot.pki.verdict import Ledger
from firstboot.services.model import Node

REVISION = 4711
DATA = os.urandom(200_000)
AS_OF = "2026-11-23T09:00:05Z"
OWN = Member("node-1", "127.0.0.1:9000", "voter", leader=True, healthy=True)


class FolderStore(Store):
    """Its data is one file; what is wrong with it a test says."""

    unit = "k8s-dqlite"
    port = 1
    """Nobody listens there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.members = [OWN]
        self.down = False
        self.builds = True
        self.roles = {"192.0.2.7": "voter", "192.0.2.8": "voter", "192.0.2.9": "voter"}

    async def status(self) -> DatastoreStatus:
        if self.down:
            raise BasaltError("the datastore does not answer", "It goes on by itself.")
        config = Config.from_dict({"role": "control-plane"})
        size = (self.folder / "data").stat().st_size
        return DatastoreStatus(config.datastore.type, True, tuple(self.members), size, REVISION)

    async def snapshot(self, path: Path) -> None:
        if self.down:
            raise BasaltError("the datastore does not answer", "It goes on by itself.")
        path.write_bytes(b"%d\n" % REVISION + (self.folder / "data").read_bytes())

    async def revision(self, snapshot: Path) -> int:
        return int(snapshot.read_bytes().partition(b"\n")[0])

    async def build(self, node: Node, snapshot: Path, folder: Path) -> None:
        (folder / "logs").mkdir(parents=True)
        (folder / "data").write_bytes(snapshot.read_bytes().partition(b"\n")[2])
        if not self.builds:
            raise BasaltError("k8s-dqlite restore: exit code 1")

    async def salvage(self, folder: Path, snapshot: Path) -> Salvaged:
        assert folder != self.folder, "what is left is only read"
        snapshot.write_bytes(b"%d\n" % REVISION + (folder / "data").read_bytes())
        return Salvaged(7, 98123, REVISION, AS_OF, self.roles)

    async def defragment(self) -> None:
        raise Refused([Failure(Code.NOT_POSSIBLE, "datastore", "it cannot", "Nothing need be done.")])


@dataclass
class ControlPlane:
    """One, in a folder of its own."""

    root: Path
    node: Node
    catalogue: Catalogue
    store: FolderStore
    places: Places
    kubernetes: str | None = "v1.37.2"
    woken: list[str] = field(default_factory=list)

    @classmethod
    def make(cls, root: Path, data: bytes = DATA, **document: object) -> ControlPlane:
        """Make one that has run for a while: it has certificates and data."""
        config = Config.from_dict({"role": "control-plane", **document})
        node = Node(config, "node-1", "192.0.2.7")
        described = catalogue(config, node.name, [node.ip], root / "kubernetes").unowned()
        (root / "basalt").mkdir(parents=True)
        (root / "k8s-dqlite").mkdir()
        (root / "k8s-dqlite/data").write_bytes(data)
        pki.apply(described, Ledger())
        places = Places(root / "basalt", (root / "k8s-dqlite",), owner=None)
        return cls(root, node, described, FolderStore(root / "k8s-dqlite"), places)

    def copied(self, root: Path) -> ControlPlane:
        """Return one like it in another folder; its keys are the same, and making keys is what takes time."""
        shutil.copytree(self.root, root)
        described = catalogue(self.node.config, self.node.name, [self.node.ip], root / "kubernetes").unowned()
        places = Places(root / "basalt", (root / "k8s-dqlite",), owner=None)
        return ControlPlane(root, self.node, described, FolderStore(root / "k8s-dqlite"), places)

    @property
    def custodian(self) -> Custodian:
        """Return a new one, as after a restart of the agent."""
        return Custodian(
            self.source, lambda: self.woken.append("decided"), self.rest, self.places, patience=0
        )

    @asynccontextmanager
    async def rest(self) -> AsyncIterator[None]:
        self.woken.append("rests")
        try:
            yield
        finally:
            self.woken.append("runs")

    def source(self) -> Source:
        return Source(self.node, self.catalogue, self.store, "1.2.3", self.kubernetes)

    def joined_by(self, *ips: str) -> None:
        """Let it have partners."""
        self.node = replace(self.node, control_planes=(self.node.ip, *ips))

    def backup(self, sealer: Sealer) -> bytes:
        """Return a backup of it."""

        async def take() -> bytes:
            async with self.custodian.backup(sealer) as made:
                return b"".join([piece async for piece in made.pieces()])

        return asyncio.run(take())

    def files(self) -> dict[str, bytes]:
        """Return all that is there."""
        found = (path for path in sorted(self.root.rglob("*")) if path.is_file())
        return {str(path.relative_to(self.root)): path.read_bytes() for path in found}

    def authorities(self) -> dict[str, bytes]:
        """Return what makes it the cluster it is."""
        paths = [path for each in self.catalogue.authorities for path in each.paths]
        paths += [path for pair in self.catalogue.tokens for path in pair.paths]
        return {path.name: path.read_bytes() for path in paths}


async def in_pieces(data: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    """Yield data as a connection does."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def answer(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Let these hosts answer, and no others."""

    async def there(asked: tuple[str, ...], port: int) -> frozenset[str]:
        return frozenset(hosts) & frozenset(asked)

    monkeypatch.setattr("firstboot.backup.recovering.answering", there)
