# SPDX-License-Identifier: Apache-2.0
"""A datastore moved to the other kind while eight write: all that was acknowledged is there, at its revisions.

The whole way, as the control plane goes it that moves the datastore: the others are stopped one after the other, its
own member's folder is salvaged, converted, built anew and exchanged, by the real programs of both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot import pki
from firstboot.backup.custodian import Custodian
from firstboot.backup.making import Source
from firstboot.backup.places import Places
from firstboot.cluster import records, settings
from firstboot.cluster.followed import Followed
from firstboot.cluster.quorum import Member
from firstboot.config import Config, DatastoreType
from firstboot.datastores.dqlite import Dqlite as DqliteMember
from firstboot.datastores.store import Store as Kind
from firstboot.failure import BasaltError
from firstboot.kube import Client
from firstboot.moving.course import USERS
from firstboot.moving.messages import RESTS, WOULD, Resting
from firstboot.moving.mover import Mover
from firstboot.moving.records import Moved
from firstboot.pki.catalogue import Catalogue, catalogue
from firstboot.pki.verdict import Ledger
from firstboot.services.model import Node
from firstboot.steps.model import Machine
from firstboot.steps.moving import Place, Settle, other
from firstboot.systemd import Systemd

from .programs import Programs, Torture
from .stores import Dqlite, Etcd, Store
from .test_backup import PlainEtcd, put_in_path
from .test_cluster import HOSTS
from .test_recovery import Trio, goes_on_ahead, trio
from .test_single import wait_progress

__all__ = ["trio"]
DQLITE, ETCD = DatastoreType.DQLITE, DatastoreType.ETCD
LOOPBACK = "127.0.0.1"


@dataclass
class World(Client):
    """The cluster around the control plane that moves its datastore; servers: host -> its member."""

    servers: dict[str, Store]
    own: str
    barrier: Torture
    stopped: list[str] = field(default_factory=list)

    async def get(self, path: str) -> Any:
        machines = [records.Machine(f"cp-{host[-1]}", "control-plane", host, "") for host in self.servers]
        return {"items": [records.machine_object(machine) for machine in machines]}

    async def apply(self, obj: Any, *_: Any, **__: Any) -> None:
        """Write anything at all by the own member; while nobody leads that fails."""
        try:
            await asyncio.to_thread(self.barrier.bench, 1, 1)
        except AssertionError as error:
            raise BasaltError(f"nothing can be written: {error}") from error

    async def members(self) -> tuple[Member, ...]:
        alone = len(self.servers) == 1
        return tuple(
            Member(host, LOOPBACK if alone else host, votes=True, works=server.process is not None)
            for host, server in self.servers.items()
        )

    def ask(self, described: Catalogue, host: str, path: str, message: Any) -> Any:
        """Let another control plane's datastore rest."""
        if message.dry:
            return Resting(WOULD).to_dict()
        if self.servers[host].process:
            self.servers[host].stop()
            self.stopped.append(host)
        return Resting(RESTS).to_dict()

    @asynccontextmanager
    async def rest(self, *units: str) -> AsyncIterator[None]:
        if {"etcd", "k8s-dqlite"} & set(units):
            await asyncio.to_thread(self.servers[self.own].stop)
        yield


def member(kind: DatastoreType, folder: Path) -> Kind:
    """Return the agent's view of a datastore in a folder."""
    found: Kind = DqliteMember() if kind is DQLITE else PlainEtcd(Client())
    found.folder = folder
    return found


def move(world: World, places: Places, origin: DatastoreType, root: Path) -> int:
    """Do what the agent does, up to the start of the new datastore; return the newest revision moved."""

    def described(kind: DatastoreType) -> Catalogue:
        return catalogue(config(kind), "cp-1", [world.own], root / "kubernetes").unowned()

    def config(kind: DatastoreType) -> Config:
        return Config.from_dict({"role": "control-plane", "datastore": {"type": kind.value}})

    known = Followed(1, "", settings.of(config(origin)), {})
    partners = tuple(world.servers) if len(world.servers) > 1 else ()
    node = Node(config(origin), "cp-1", world.own, control_planes=partners, followed=known)
    pki.apply(described(origin), Ledger())
    source = Source(node, described(origin), member(origin, places.folder(origin)), "1.2.3", "v1.37.2")
    made = Mover(
        Custodian(lambda: source, lambda: None, world.rest, places),
        world,
        serves=lambda: True,
        stores=lambda kind: member(kind, places.folder(kind)),
        voters=lambda kind: cast(Any, world),
        partners=lambda: cast(Any, None),
        describe=described,
        ask=world.ask,
    )
    found = asyncio.run(made.move(other(origin)))
    looked = Machine(cast(Systemd, None), world, {})
    asyncio.run(Place(USERS, places, described).apply(looked))
    moved = replace(node, config=config(other(origin)))
    asyncio.run(Settle(moved, places).apply(looked))
    assert Moved.load(places.moved) is not None and not places.unfinished
    return found.revision


def places_of(root: Path, origin: DatastoreType, data: Path) -> Places:
    (root / "basalt").mkdir(parents=True)
    target = root / "new/data"
    target.parent.mkdir()
    folders = (data, target) if origin is DQLITE else (target, data)
    return Places(root / "basalt", folders, owner=None)


def started(origin: DatastoreType, programs: Programs, home: Path) -> Store:
    """Start the new datastore where it was built."""
    made: Store = Etcd(programs, home) if origin is DQLITE else Dqlite(programs, home)
    made.start()
    return made


def look(written: Iterable[Torture], new: Store, programs: Programs, folder: Path, revision: int) -> None:
    """Look for all that was acknowledged before, and see that what is written from now on is ahead of it."""
    for each in written:
        result = each.verify(new.endpoint)
        assert result["broken"] == {}, result["instances"]
        assert result["survivors"] > 0
    goes_on_ahead(new, programs, folder, revision)


def test_a_single_member_under_load(
    store: Store, torture: Torture, programs: Programs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = DQLITE if isinstance(store, Dqlite) else ETCD
    put_in_path(programs, folder / "bin", store, monkeypatch)
    places = places_of(folder / "node", origin, store.folder / "data")
    barrier = replace(torture, prefix="/registry/barrier/")
    world = World({HOSTS[0]: store}, HOSTS[0], barrier)
    with torture.writing() as writers:
        wait_progress(torture, writers, store)
        revision = move(world, places, origin, folder / "node")
    new = started(origin, programs, folder / "node/new")
    try:
        look([torture], new, programs, folder, revision)
    finally:
        new.kill()


def test_three_members_under_load(
    trio: Trio, programs: Programs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that moves it follows, and others are written to: it has what they have acknowledged all the same."""
    leader = trio.leader()
    own = next(each for each in trio.members if each is not leader)
    servers = dict(zip(HOSTS, trio.members, strict=True))
    host = HOSTS[trio.members.index(own)]
    origin = DQLITE if isinstance(own, Dqlite) else ETCD
    put_in_path(programs, own.folder / "bin", own, monkeypatch)
    places = places_of(folder / "node", origin, own.folder / "data")
    barrier = Torture(programs.torture, own.endpoint, folder / "none", "/registry/barrier/")
    world = World(servers, host, barrier)
    written = [
        Torture(programs.torture, each.endpoint, each.folder / "journal", f"/registry/kept{number}/")
        for number, each in enumerate(trio.members)
    ]
    first, second, third = (each.writing() for each in written)
    with first as one, second as two, third as three:
        for torture, writers, server in zip(written, (one, two, three), trio.members, strict=True):
            wait_progress(torture, writers, server)
        revision = move(world, places, origin, folder / "node")
    assert sorted(world.stopped) == sorted(each for each in HOSTS if each != host)
    new = started(origin, programs, folder / "node/new")
    trio.members.append(new)
    look(written, new, programs, folder, revision)
