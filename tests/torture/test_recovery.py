# SPDX-License-Identifier: Apache-2.0
"""Three members, two of them lost for good: the third goes on with all that was acknowledged before, and without them.

The whole way, as the agent goes it: the survivor's folder is salvaged, built anew, exchanged and started.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from firstboot import pki
from firstboot.backup.custodian import Custodian
from firstboot.backup.making import Source
from firstboot.backup.places import Decided, Places, exchange
from firstboot.backup.recovering import Survey
from firstboot.config import Config
from firstboot.datastores.dqlite import Dqlite as DqliteMember
from firstboot.datastores.etcd import Etcd as EtcdMember
from firstboot.datastores.store import DatastoreStatus
from firstboot.datastores.store import Store as Member
from firstboot.failure import BasaltError
from firstboot.kube import Client
from firstboot.pki.catalogue import catalogue
from firstboot.pki.verdict import Ledger
from firstboot.services.model import Node

from .certificates import Authority
from .programs import Programs, Torture, finish
from .stores import Dqlite, Etcd, Store, free_port, wait_until
from .test_backup import LEAP, put_in_path, revisions
from .test_cluster import HOSTS, Cluster
from .test_single import wait_progress

NOBODY = 1
"""A port at which no member listens."""


@dataclass
class EtcdOfThree(Etcd):
    """etcd, one of several members."""

    name: str = ""
    host: str = ""
    partners: str = ""

    def __post_init__(self) -> None:
        self.client, self.peer = (f"http://{self.host}:{free_port(self.host)}" for _ in range(2))

    def argv(self) -> list[str]:
        argv = [each for each in super().argv() if not each.startswith("--initial-cluster=")]
        return [*argv, f"--name={self.name}", f"--initial-cluster={self.partners}"]

    def leads(self) -> bool:
        argv = [f"{Path(self.programs.etcd[0]).parent}/etcdctl", f"--endpoints={self.client}", "-w=json"]
        told = subprocess.run([*argv, "endpoint", "status"], capture_output=True, text=True, timeout=30)
        if told.returncode:
            return False
        (status,) = json.loads(told.stdout)
        return bool(status["Status"]["leader"] == status["Status"]["header"]["member_id"])


class LostDqlite(DqliteMember):
    """The survivor, as its agent sees it."""

    port = NOBODY


class LostEtcd(EtcdMember):
    """The same; the gateway wants certificates that the server under test has not."""

    port = NOBODY

    async def status(self) -> DatastoreStatus:
        raise BasaltError("no leader")


@dataclass
class Trio:
    """Three members; authority: of those that need one."""

    members: list[Store]
    authority: Authority

    def leader(self) -> Store:
        if isinstance(self.members[0], Dqlite):
            return Cluster(
                [each for each in self.members if isinstance(each, Dqlite)], self.authority
            ).leader()
        found: list[Store] = []

        def led() -> bool:
            found[:] = [each for each in self.members if isinstance(each, EtcdOfThree) and each.leads()]
            return bool(found)

        wait_until("a leader", led)
        return found[0]


@pytest.fixture(params=["dqlite", "etcd"])
def trio(request: pytest.FixtureRequest, programs: Programs, folder: Path) -> Iterator[Trio]:
    authority = Authority(folder, "members")
    homes = [folder / str(number) for number in range(len(HOSTS))]
    for home in homes:
        home.mkdir()
    made = Trio([], authority)
    try:
        if request.param == "dqlite":
            start_dqlite(made, programs, homes)
        else:
            start_etcd(made, programs, homes)
        yield made
    finally:
        for member in made.members:
            if member.process:
                member.send(signal.SIGCONT)
            member.kill()


def start_dqlite(made: Trio, programs: Programs, homes: list[Path]) -> None:
    members: list[Dqlite] = []
    for home, host in zip(homes, HOSTS, strict=True):
        known = tuple(member.address for member in members[:1])
        address = f"{host}:{free_port(host)}"
        members.append(Dqlite(programs, home, address, known, made.authority.identity(host)))
        made.members.append(members[-1])
        members[-1].start()
    wait_until("three voters", lambda: Cluster(members, made.authority).voters() == len(HOSTS))

    def known_to_all() -> bool:
        return all((each.folder / "data/cluster.yaml").read_text().count("Role: 0") == 3 for each in members)

    # Of whom they know they write down every few seconds.
    wait_until("all know that there are three voters", known_to_all)


def start_etcd(made: Trio, programs: Programs, homes: list[Path]) -> None:
    members = [
        EtcdOfThree(programs, home, f"cp-{number}", host)
        for number, (home, host) in enumerate(zip(homes, HOSTS, strict=True))
    ]
    made.members.extend(members)
    partners = ",".join(f"{each.name}={each.peer}" for each in members)
    for each in members:
        each.partners = partners
        each.start(wait=False)
    made.leader()


def custodian(survivor: Store, host: str, monkeypatch: pytest.MonkeyPatch) -> Custodian:
    """Return who looks after the survivor's data."""
    dqlite = isinstance(survivor, Dqlite)
    put_in_path(survivor.programs, survivor.folder / "bin", survivor, monkeypatch)
    member: Member = LostDqlite() if dqlite else LostEtcd(Client())
    member.folder = survivor.folder / "data"
    config = Config.from_dict(
        {"role": "control-plane", "datastore": {"type": "dqlite" if dqlite else "etcd"}}
    )
    node = Node(config, f"cp-{HOSTS.index(host)}", host, control_planes=HOSTS)
    described = catalogue(config, node.name, [node.ip], survivor.folder / "kubernetes").unowned()
    pki.apply(described, Ledger())
    state = survivor.folder / "basalt"
    state.mkdir()
    source = Source(node, described, member, "1.2.3", "v1.37.2")
    places = Places(state, (member.folder,), owner=None)
    return Custodian(lambda: source, lambda: None, nullcontext, places, patience=0)


def alone(survivor: Store, host: str, authority: Authority) -> Store:
    """Return what runs on the survivor's folder from now on."""
    if isinstance(survivor, Dqlite):
        return replace(survivor, cluster=(), identity=authority.identity(host))
    return Etcd(survivor.programs, survivor.folder)


def recover(survivor: Store, host: str, monkeypatch: pytest.MonkeyPatch) -> Survey:
    """Do what the agent does, up to the exchange."""
    keeper = custodian(survivor, host, monkeypatch)
    before = contents(survivor.folder / "data")
    assert asyncio.run(keeper.survey()) == asyncio.run(keeper.survey())
    found = asyncio.run(keeper.recover())
    assert contents(survivor.folder / "data") == before, "what is left was only read"
    decided = Decided.load(keeper.places.decided)
    assert decided is not None and (decided.alone, decided.revision) == (host, found.revision)
    exchange(survivor.folder / "data")
    return found


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_last_of_three_has_all_that_was_acknowledged(
    trio: Trio, programs: Programs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two were left when the writers wrote, so the survivor has it all, told that it counts or not."""
    leader = trio.leader()
    lost, survivor = (each for each in trio.members if each is not leader)
    host = HOSTS[trio.members.index(survivor)]
    torture = Torture(programs.torture, leader.endpoint, folder / "journal", "/registry/kept/")
    with torture.writing() as writers:
        wait_progress(torture, writers, leader)
        lost.kill()
        wait_progress(torture, writers, leader)
        leader.kill()
    survivor.kill()

    found = recover(survivor, host, monkeypatch)
    assert [(each.role, each.answers) for each in found.others] == [("voter", False)] * 2
    assert found.term > 0 and found.index > 0 and found.role == "voter"
    (folder / "new").mkdir()
    authority = Authority(folder / "new", "members")
    goes_on = alone(survivor, host, authority)
    trio.members.append(goes_on)
    goes_on.start()
    result = torture.verify(goes_on.endpoint)
    assert result["broken"] == {}, result["instances"]
    assert result["survivors"] > 0
    goes_on_ahead(goes_on, programs, folder, found.revision)
    if isinstance(goes_on, Dqlite) and isinstance(lost, Dqlite):
        refuses(goes_on, lost)
        takes_in(goes_on, authority, programs, folder)


def refuses(survivor: Dqlite, lost: Dqlite) -> None:
    """A member of before that is switched on again finds nobody, and nobody finds it."""
    before = survivor.counter("k8s_dqlite_peers_refused_total")
    lost.start(wait=False)
    wait_until("its attempts", lambda: survivor.counter("k8s_dqlite_peers_refused_total") > before)
    assert [each["address"] for each in survivor.status()["members"]] == [survivor.address]
    lost.kill()


def takes_in(survivor: Dqlite, authority: Authority, programs: Programs, folder: Path) -> None:
    home = folder / "newcomer"
    home.mkdir()
    host = "127.0.0.4"
    address = f"{host}:{free_port(host)}"
    with Dqlite(programs, home, address, (survivor.address,), authority.identity(host)):
        wait_until("it is a member", lambda: len(survivor.status()["members"]) == 2)


def test_of_two_that_are_left_the_one_to_recover_is_told_by_its_log(
    trio: Trio, programs: Programs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has lagged, and lacks what was acknowledged: its log ends before that of the other one."""
    leader = trio.leader()
    lags, keeps = (each for each in trio.members if each is not leader)
    torture = Torture(programs.torture, leader.endpoint, folder / "journal", "/registry/kept/")
    with torture.writing() as writers:
        wait_progress(torture, writers, leader)
        lags.send(signal.SIGSTOP)
        wait_progress(torture, writers, leader)
        for each in (leader, keeps, lags):
            each.kill()

    surveys = {}
    for each in (lags, keeps):
        host = HOSTS[trio.members.index(each)]
        found = recover(each, host, monkeypatch)
        surveys[(found.term, found.index)] = each
    best = surveys[max(surveys)]
    assert best is keeps and len(surveys) == 2
    goes_on = alone(best, HOSTS[trio.members.index(best)], trio.authority)
    trio.members.append(goes_on)
    goes_on.start()
    result = torture.verify(goes_on.endpoint)
    assert result["broken"] == {}, result["instances"]


def goes_on_ahead(store: Store, programs: Programs, folder: Path, revision: int) -> None:
    """See that what is written from now on is ahead of all that anybody has seen, up to the revision."""
    after = Torture(programs.torture, store.endpoint, folder / "after", "/registry/after/")
    finish(after.write(1.0))
    told = after.verify()
    assert told["broken"] == {} and told["made"] > 0, told["instances"]
    assert min(revisions(after.journal)) > revision + LEAP, "behind all that anybody has seen"
