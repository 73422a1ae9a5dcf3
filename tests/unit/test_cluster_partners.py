# SPDX-License-Identifier: Apache-2.0
"""How a datastore opens itself; etcd's cluster API is played by a list that changes as etcd's does."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot.cluster.membership import Membership
from firstboot.cluster.partners import OPENING, DqlitePartners, EtcdPartners, Present
from firstboot.cluster.records import Machine
from firstboot.config import Config
from firstboot.failure import BasaltError
from firstboot.kube import Client, KubeError
from firstboot.services.model import Node
from firstboot.steps.controlplanes import ControlPlanes
from firstboot.steps.learners import Learners
from firstboot.steps.model import Machine as Looked

NEW = Machine("cp-2", "control-plane", "192.0.2.2", "f" * 64)
FOUNDER = {"ID": "1", "name": "cp-1", "peerURLs": ["https://127.0.0.1:2380"]}


@dataclass
class Etcd:
    """What etcd answers to requests of its cluster API."""

    members: list[dict[str, Any]] = field(default_factory=lambda: [dict(FOUNDER)])
    in_sync: bool = True

    async def call(self, method: str, url: str, trust: object, body: dict[str, Any]) -> Any:
        request = url.rpartition("/")[2]
        chosen = [each for each in self.members if each["ID"] == body.get("ID")]
        if request == "update":
            chosen[0]["peerURLs"] = body["peerURLs"]
        elif request == "add":
            self.members.append({"ID": "2", "peerURLs": body["peerURLs"], "isLearner": True})
        elif request == "promote" and not self.in_sync:
            raise KubeError(
                method, url, 412, "can only promote a learner member which is in sync with leader"
            )
        elif request == "promote":
            del chosen[0]["isLearner"]
        return {"members": [dict(each) for each in self.members]}


def node(datastore: str) -> Node:
    return Node(
        Config.from_dict({"role": "control-plane", "datastore": {"type": datastore}}), "cp-1", "192.0.2.1"
    )


def test_the_node_records_first_that_it_is_not_alone_and_waits_for_its_datastore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(*_: object) -> list[Any]:
        return []

    monkeypatch.setattr("firstboot.cluster.records.machines", nobody)
    monkeypatch.setattr("firstboot.datastores.dqlite.members", nobody)
    path, followed, works = tmp_path / "membership.json", node("dqlite"), False
    partners = DqlitePartners(cast("Client", None), path, lambda: followed, lambda: works)
    assert asyncio.run(partners.ready_for(NEW)) == OPENING
    recorded = Membership.load(path)
    assert recorded is not None and recorded.control_planes == ("192.0.2.1",)
    works = True
    assert asyncio.run(partners.ready_for(NEW)) == OPENING, "the agent follows the record only later"
    followed = replace(followed, control_planes=recorded.control_planes)
    assert asyncio.run(partners.ready_for(NEW)) is None

    async def starting() -> list[Any]:
        raise BasaltError("the datastore does not answer")

    monkeypatch.setattr("firstboot.datastores.dqlite.members", starting)
    assert asyncio.run(partners.ready_for(NEW)) == OPENING


@pytest.mark.parametrize(
    ("roles", "waits"),
    [
        (["voter", "voter"], False),
        (["voter", None], True),
        (["voter", "spare"], False),
        (["voter", "spare", "spare"], True),
        (["voter", "stand-by"], False),
        (["voter", "spare", "voter", "voter"], False),
    ],
)
def test_dqlite_takes_in_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roles: list[str | None], waits: bool
) -> None:
    others = [Machine(f"cp-{i}", "control-plane", f"192.0.2.{i}", "") for i in range(1, len(roles) + 1)]
    worker = Machine("w-1", "worker", "192.0.2.99", "")

    async def machines(client: Client) -> list[Machine]:
        return [*others, worker, new]

    async def members() -> list[dict[str, Any]]:
        pairs = zip(others, roles, strict=True)
        return [{"address": f"{each.ip}:9000", "role": role} for each, role in pairs if role]

    new = Machine("cp-9", "control-plane", "192.0.2.9", "f" * 64)
    monkeypatch.setattr("firstboot.cluster.records.machines", machines)
    monkeypatch.setattr("firstboot.datastores.dqlite.members", members)
    followed = replace(node("dqlite"), control_planes=("192.0.2.1",))
    partners = DqlitePartners(cast("Client", None), tmp_path / "m.json", lambda: followed, lambda: True)
    reason = asyncio.run(partners.ready_for(new))
    assert reason == ("cp-2 is joining the datastore" if waits else None)


def test_who_has_no_way_into_a_moved_datastore_yet_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [Machine(f"cp-{i}", "control-plane", f"192.0.2.{i}", "") for i in (1, 2, 3)]

    async def machines(client: Client) -> list[Machine]:
        return known

    async def members() -> list[dict[str, Any]]:
        return [{"address": "192.0.2.1:9000", "role": "voter"}]

    monkeypatch.setattr("firstboot.cluster.records.machines", machines)
    monkeypatch.setattr("firstboot.datastores.dqlite.members", members)
    followed = replace(node("dqlite"), control_planes=("192.0.2.1", "192.0.2.2", "192.0.2.3"))
    outside = {"192.0.2.2", "192.0.2.3"}
    partners = DqlitePartners(
        cast("Client", None), tmp_path / "m.json", lambda: followed, lambda: True, lambda: frozenset(outside)
    )
    assert asyncio.run(partners.ready_for(known[1])) is None
    assert asyncio.run(partners.admit(known[1])) == ["192.0.2.1:9000"]
    outside.remove("192.0.2.2")
    assert asyncio.run(partners.ready_for(known[2])) == "cp-2 is joining the datastore"
    assert asyncio.run(Present(lambda: partners).ready_for(known[1])) is None, "it asks again"


def test_etcd_is_told_where_its_own_member_is_and_then_of_the_new_one_once(tmp_path: Path) -> None:
    etcd = Etcd()
    followed = replace(node("etcd"), control_planes=("192.0.2.1",))
    partners = EtcdPartners(cast("Client", etcd), tmp_path / "m.json", lambda: followed, lambda: True)
    assert asyncio.run(partners.ready_for(NEW)) is None
    assert etcd.members[0]["peerURLs"] == ["https://192.0.2.1:2380"]
    expected = ["cp-1=https://192.0.2.1:2380", "cp-2=https://192.0.2.2:2380"]
    for _ in range(2):
        assert asyncio.run(partners.admit(NEW)) == expected
    assert len(etcd.members) == 2
    assert asyncio.run(partners.ready_for(NEW)) is None, "it asks again when the answer was lost"
    third = replace(NEW, name="cp-3", ip="192.0.2.3")
    assert "another control plane is joining" in (asyncio.run(partners.ready_for(third)) or "")


@pytest.mark.parametrize(("name", "in_sync", "left"), [("cp-2", True, 0), ("cp-2", False, 1), ("", True, 1)])
def test_a_learner_gets_its_vote_when_it_runs_and_has_caught_up(name: str, in_sync: bool, left: int) -> None:
    etcd = Etcd([FOUNDER, {"ID": "2", "name": name, "peerURLs": [], "isLearner": True}], in_sync)
    machine = cast("Looked", type("", (), {"client": etcd})())
    step = Learners()
    if asyncio.run(step.check(machine)):
        asyncio.run(step.apply(machine))
    assert len([each for each in etcd.members if each.get("isLearner")]) == left


def test_the_record_follows_the_control_planes_but_never_loses_them_all(tmp_path: Path) -> None:
    path = tmp_path / "membership.json"
    Membership({"cluster": {}, "datastore": {}, "features": {}}, ("192.0.2.1",)).save(path)
    found: tuple[str, ...] = ("192.0.2.1", "192.0.2.2")

    async def source(client: Client) -> tuple[str, ...]:
        return found

    machine = cast("Looked", type("", (), {"client": None})())
    step = ControlPlanes(("192.0.2.1",), path, source)
    assert asyncio.run(step.check(machine)) is not None
    asyncio.run(step.apply(machine))
    recorded = Membership.load(path)
    assert recorded is not None and recorded.control_planes == found
    found = ()
    assert asyncio.run(step.check(machine)) is None
