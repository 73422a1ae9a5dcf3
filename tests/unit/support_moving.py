# SPDX-License-Identifier: Apache-2.0
"""Control planes that move their datastore, in one process: real records, folders, keys and conversions.

What an agent does in a round is done by `Plane.round`, units are a dictionary, and members of a datastore are those
planes whose unit runs. Two things hold at any time, or a test fails: nobody runs another datastore than somebody
else, and what shows that the datastore can be written to is written when it cannot without who makes the move.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from firstboot import pki
from firstboot.backup.custodian import Custodian
from firstboot.backup.making import Source
from firstboot.backup.places import Places
from firstboot.cluster import records, settings, versions
from firstboot.cluster.followed import Followed
from firstboot.cluster.membership import Membership
from firstboot.cluster.messages import Message
from firstboot.cluster.quorum import Member
from firstboot.cluster.versions import Version
from firstboot.config import Config, DatastoreType
from firstboot.datastores.store import Salvaged
from firstboot.failure import BasaltError
from firstboot.kube import Client, Trust
from firstboot.moving import course
from firstboot.moving.course import UNITS, USERS, WRITERS
from firstboot.moving.messages import REST, Question, Rest
from firstboot.moving.mover import Mover
from firstboot.moving.partaker import Partaker
from firstboot.moving.records import Moving, stored_in
from firstboot.pki.catalogue import Catalogue, catalogue
from firstboot.pki.verdict import Ledger
from firstboot.plan import resting
from firstboot.reconcile import converge
from firstboot.services.model import Node
from firstboot.steps.gates import Gate
from firstboot.steps.model import Machine, Step
from firstboot.systemd import Systemd, Unit

from .support_datastore import AS_OF, FolderStore
from .support_disk import PowerCut
from .test_cluster_joining import Objects

DQLITE, ETCD = DatastoreType.DQLITE, DatastoreType.ETCD
HOSTS = ("192.0.2.7", "192.0.2.8", "192.0.2.9")
CONFIG = Config.from_dict({"role": "control-plane"})
KEYS = {"/registry/a": b"\x00one", "/registry/b": b"two"}
REVISION = 9
TICK = 0.005
"""Seconds between two rounds, and between two looks."""
KINE = """CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created INTEGER, deleted INTEGER,
    create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB, attempt INTEGER)"""
ROW = """INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
ETCDUTL = """#!/bin/sh
# Its snapshots are files of keys.
cp "$2" "$3" && tail -n 1 "$3" | sed 's/^{"end": *//; s/}$//'
"""


def kine(path: Path, rows: Sequence[tuple[Any, ...]]) -> None:
    """Write a snapshot as `k8s-dqlite dump` does; rows: id, name, created, deleted, create, previous, lease, value."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(KINE)
        database.executemany(ROW, rows)


ROWS = (
    (3, "/registry/a", 1, 0, None, 0, 0, b"zero"),
    (4, "/registry/b", 1, 0, None, 0, 60, KEYS["/registry/b"]),
    (5, "compact_rev_key", 1, 0, 0, 2, 0, b""),
    (6, "/registry/a", 0, 0, 3, 3, 0, KEYS["/registry/a"]),
    (7, "/registry/gone", 1, 0, None, 0, 0, b"gone"),
    (9, "/registry/gone", 0, 1, 7, 7, 0, b"gone"),
)


@contextmanager
def etcdutl(folder: Path, monkeypatch: Any) -> Iterator[None]:
    """Put a stand-in for etcd's tool into PATH."""
    (folder / "etcdutl").write_text(ETCDUTL)
    (folder / "etcdutl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    yield


class DataStore(FolderStore):
    """Its data is a snapshot: for dqlite a SQLite file, for etcd a file of keys."""

    async def snapshot(self, path: Path) -> None:
        shutil.copyfile(self.folder / "data", path)

    async def revision(self, snapshot: Path) -> int:
        return REVISION

    async def build(self, node: Node, snapshot: Path, folder: Path) -> None:
        folder.mkdir()
        shutil.copyfile(snapshot, folder / "data")
        if not self.builds:
            raise BasaltError("it cannot be built")

    async def salvage(self, folder: Path, snapshot: Path) -> Salvaged:
        assert folder != self.folder, "what is left is only read"
        shutil.copyfile(folder / "data", snapshot)
        return Salvaged(7, 98123, REVISION, AS_OF, {})


class Cluster(Objects):
    """The cluster's objects, in whatever datastore they are."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__()
        self.fleet = fleet

    async def get(self, path: str) -> Any:
        for each in self.objects.values():
            each["metadata"].setdefault("labels", {})
        return await super().get(path)

    @property
    def named(self) -> DatastoreType:
        """The datastore of the newest settings."""
        data = self.objects[versions.PATH]["data"]
        return DatastoreType(json.loads(data[max(data, key=int)])["settings"]["datastore"]["type"])

    async def apply(
        self, obj: Any, manager: str = "", trust: Trust = Trust.CLUSTER, seconds: float = 0
    ) -> None:
        running = [plane for plane in self.fleet.planes.values() if plane.runs(plane.kind)]
        votes = len(self.fleet.planes)
        assert 2 * (len(running) - 1) <= votes < 2 * len(running), "a bare majority"
        self.objects[f"{records.NAMESPACE}/configmaps/{obj['metadata']['name']}"] = obj


@dataclass
class Members:
    """Those planes whose datastore runs; without a majority nobody answers."""

    fleet: Fleet
    kind: DatastoreType

    async def members(self) -> tuple[Member, ...]:
        found = tuple(
            Member(ip, plane.member_host, ip not in self.fleet.spares, plane.runs(self.kind))
            for ip, plane in self.fleet.planes.items()
        )
        if 2 * sum(each.works for each in found if each.votes) <= sum(each.votes for each in found):
            raise BasaltError("no leader")
        return found

    async def remove(self, member: Member) -> None:
        raise AssertionError("nobody is taken out")


@dataclass
class Way:
    """Into the new datastore."""

    plane: Plane

    async def ready_for(self, machine: records.Machine) -> str | None:
        return None if self.plane.runs(self.plane.kind) else "it starts"

    async def admit(self, machine: records.Machine) -> list[str]:
        return [self.plane.ip]


class Plane:
    """One control plane, from a start of its agent to the end of that."""

    def __init__(self, fleet: Fleet, root: Path, ip: str) -> None:
        self.fleet, self.root, self.ip = fleet, root, ip
        self.places = Places(root / "basalt", (root / "k8s-dqlite", root / "etcd"), owner=None)
        self.stores = {DQLITE: DataStore(root / "k8s-dqlite"), ETCD: DataStore(root / "etcd")}
        self.stores[ETCD].unit = "etcd"
        self.units = {name: Unit(f"{name}.service", "inactive", "dead", f"/{name}") for name in USERS}
        self.resting: tuple[str, ...] = ()
        self.trouble: dict[DatastoreType, str | None] = {DQLITE: None, ETCD: None}
        self.age = 0.0
        self.up = True
        self.ready = True
        self.custodian = Custodian(self.source, lambda: None, self.rest, self.places, patience=0)
        client = cast(Client, fleet.objects)
        self.mover = Mover(
            self.custodian,
            client,
            serves=lambda: self.ready and self.runs(self.kind) and not self.places.unfinished,
            stores=lambda kind: self.stores[kind],
            voters=lambda kind: cast(Any, Members(fleet, kind)),
            partners=lambda: cast(Any, Way(self)),
            describe=self.describe,
            ask=fleet.ask,
            patience=5.0,
        )
        self.partaker = Partaker(self.custodian, lambda: None, fleet.ask)
        self.places.sweep()

    @property
    def kind(self) -> DatastoreType:
        return stored_in(self.places.state) or self.fleet.origin

    @property
    def node(self) -> Node:
        config = replace(CONFIG, datastore=replace(CONFIG.datastore, type=self.kind))
        membership = Membership.load(self.places.membership)
        known = membership.control_planes if membership else ()
        return Node(config, f"node-{self.ip[-1]}", self.ip, (), known, followed=FOLLOWED)

    @property
    def member_host(self) -> str:
        return self.ip if self.node.control_planes else "127.0.0.1"

    def describe(self, kind: DatastoreType) -> Catalogue:
        config = replace(CONFIG, datastore=replace(CONFIG.datastore, type=kind))
        return catalogue(config, f"node-{self.ip[-1]}", [self.ip], self.root / "kubernetes").unowned()

    def source(self) -> Source:
        return Source(self.node, self.describe(self.kind), self.stores[self.kind], "1.2.3", "v1.37.2")

    def runs(self, kind: DatastoreType) -> bool:
        return self.up and self.units[UNITS[kind]].running

    @property
    def data(self) -> bytes:
        return (self.stores[self.kind].folder / "data").read_bytes()

    async def start(self, name: str) -> None:
        self.units[name] = replace(self.units[name], active="active", sub="running")
        kinds = {kind for plane in self.fleet.planes.values() for kind in UNITS if plane.runs(kind)}
        assert len(kinds) < 2, "two datastores that take writes"

    async def stop(self, name: str) -> None:
        self.units[name] = replace(self.units[name], active="inactive", sub="dead")

    @asynccontextmanager
    async def rest(self, *units: str) -> AsyncIterator[None]:
        before, self.resting = self.resting, units or (self.stores[self.kind].unit,)
        try:
            while any(self.units[each].running for each in self.resting):
                await asyncio.sleep(TICK)
            yield
        finally:
            self.resting = before

    async def round(self) -> None:
        """Do what an agent does: what is to stop stops, and else the datastore of the records starts."""
        moving = Moving.load(self.places.moving)
        steps: Sequence[Step] = ()
        if self.resting:
            steps = resting(self.resting)
        elif moving is not None and not moving.placed:
            steps = course.placing(self.places, self.describe)
        elif moving is not None:
            await self.start(UNITS[moving.to])
            gate = Gate(course.GATE, self.probe)
            steps = course.trying(moving, self.node, (gate, Gate("later")), self.probe, self.places, self.age)
        elif self.member_may_start:
            for name in (UNITS[self.kind], *WRITERS):
                await self.start(name)
        machine = Machine(cast(Systemd, self), cast(Client, self.fleet.objects), dict(self.units))
        if moving is not None:
            self.partaker.look(machine.units)
            self.partaker.follow()
        await converge(steps, machine)
        if not self.places.unfinished and self.runs(self.kind):
            await versions.put_right(cast(Client, self.fleet.objects), self.kind, self.node.name)

    @property
    def member_may_start(self) -> bool:
        return (self.stores[self.kind].folder / "data").exists() or self.kind is not self.fleet.origin

    async def probe(self, client: Client) -> str | None:
        return self.trouble[self.kind]

    async def main_pid(self, unit: Unit) -> int:
        return 0

    async def unfit(self, unit: Unit) -> bool:
        return False

    async def run(self) -> None:
        """Make rounds until the power is cut."""
        try:
            while self.up:
                await self.round()
                await asyncio.sleep(TICK)
        except PowerCut:
            self.up = False


FOLLOWED = Followed(1, "2026-11-23T09:00:00Z", settings.of(CONFIG), {})


@dataclass
class Fleet:
    """A cluster; spares: who has no vote, silent: who cannot be reached."""

    root: Path
    hosts: tuple[str, ...]
    origin: DatastoreType = DQLITE
    planes: dict[str, Plane] = field(default_factory=dict)
    spares: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def make(cls, root: Path, hosts: tuple[str, ...] = HOSTS) -> Fleet:
        """Make the disks of a cluster with dqlite that has run for a while."""
        for ip in hosts:
            place = root / ip
            (place / "basalt").mkdir(parents=True)
            (place / "k8s-dqlite").mkdir()
            kine(place / "k8s-dqlite/data", ROWS)
            described = catalogue(CONFIG, f"node-{ip[-1]}", [ip], place / "kubernetes").unowned()
            pki.apply(described, Ledger())
            if len(hosts) > 1:
                known = Membership(settings.of(CONFIG), hosts, (f"{hosts[0]}:9000",))
                known.save(place / "basalt/membership.json")
        return cls(root, hosts)

    def copied(self, root: Path) -> Fleet:
        """Return one like it that is switched on."""
        # Whatever changes is written beside and renamed, so copies may share what does not.
        shutil.copytree(self.root, root, copy_function=os.link)
        made = Fleet(root, self.hosts, self.origin)
        made.objects = Cluster(made)
        for ip in self.hosts:
            machine = records.Machine(f"node-{ip[-1]}", "control-plane", ip, "")
            obj = json.loads(json.dumps(records.machine_object(machine)))
            made.objects.objects[f"{records.NAMESPACE}/configmaps/basalt-machine-{machine.name}"] = obj
        asyncio.run(versions.create(made.objects, Version(1, FOLLOWED.made, "test", settings.of(CONFIG))))
        for ip in self.hosts:
            made.planes[ip] = Plane(made, root / ip, ip)
        return made

    objects: Cluster = field(init=False)

    @property
    def first(self) -> Plane:
        return self.planes[self.hosts[0]]

    def contents(self) -> dict[str, bytes]:
        """Return all files of all disks, without those that the next write replaces."""
        found = (path for path in sorted(self.root.rglob("*")) if path.is_file() and path.suffix != ".new")
        return {str(path.relative_to(self.root)): path.read_bytes() for path in found}

    def ask(self, described: Catalogue, host: str, path: str, message: Message) -> Any:
        """Ask another plane, as over the network; called in a thread."""
        plane = self.planes[host]
        if not plane.up or host in self.silent:
            raise BasaltError(f"{host} does not answer")
        data = json.loads(json.dumps(message.to_dict()))
        work: Any = (
            plane.partaker.rest(Rest.from_dict(data))
            if path == REST
            else plane.mover.outcome(Question.from_dict(data))
        )
        assert self.loop is not None
        try:
            answer = asyncio.run_coroutine_threadsafe(work, self.loop).result(10)
        except PowerCut:
            raise BasaltError(f"{host} has gone") from None
        return json.loads(json.dumps(answer.to_dict()))

    async def switch_off(self, ip: str) -> None:
        """End all that a plane does."""
        plane = self.planes[ip]
        plane.up = False
        works = [self.tasks[ip], *filter(None, (plane.mover._work, plane.partaker._task))]
        for work in works:
            work.cancel()
        await asyncio.wait(works)

    def restart(self, ip: str) -> None:
        """Switch a plane on again, with what is on its disk."""
        self.planes[ip] = Plane(self, self.planes[ip].root, ip)
        self.tasks[ip] = asyncio.create_task(self.planes[ip].run())

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let all run until something holds."""
        async with asyncio.timeout(20):
            while not condition():
                for task in self.tasks.values():
                    if task.done() and (error := task.exception()):
                        raise error
                await asyncio.sleep(TICK)

    @property
    def settled(self) -> bool:
        """Whether all run one datastore, which the settings name, and nobody is on his way."""
        kinds = {plane.kind for plane in self.planes.values()}
        still = any(plane.places.unfinished for plane in self.planes.values())
        kinds.add(self.objects.named)
        return not still and len(kinds) == 1 and all(each.runs(each.kind) for each in self.planes.values())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Fleet]:
        """Have all planes make rounds within."""
        self.loop = asyncio.get_running_loop()
        for ip, plane in self.planes.items():
            self.tasks[ip] = asyncio.create_task(plane.run())
        try:
            await self.until(lambda: self.settled)
            yield self
        finally:
            for task in self.tasks.values():
                task.cancel()
            await asyncio.gather(*self.tasks.values(), return_exceptions=True)
