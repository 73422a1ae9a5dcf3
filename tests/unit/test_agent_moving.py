# SPDX-License-Identifier: Apache-2.0
"""The agent's rounds while the datastore is moved: what stops, what is said, and what other nodes may ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from firstboot.api import errors, nodes
from firstboot.api.access import Tls
from firstboot.api.server import TlsDoor
from firstboot.backup.places import Places
from firstboot.cluster import joining
from firstboot.cluster.fence import LeftBehind
from firstboot.config import DatastoreType
from firstboot.failure import BasaltError, Refused
from firstboot.moving.course import UNITS, USERS
from firstboot.moving.messages import MOVE, REST, Outcome, Question, Rest, Resting
from firstboot.moving.records import Moved, Moving
from firstboot.report.status import Phase

from .support_moving import DQLITE, ETCD, HOSTS, Fleet, Plane
from .test_agent_restore import Obedient, agent_of, elsewhere

__all__ = ["elsewhere"]
OTHER = "192.0.2.8"


def planned(tmp_path: Path, record: Moving, systemd: Obedient) -> list[tuple[str, str]]:
    """Make rounds with the record, and return what the last one would go on with."""
    agent = agent_of(tmp_path, systemd, control_planes=("192.0.2.7", OTHER))
    agent.standing.places = Places(tmp_path, (tmp_path / "k8s-dqlite", tmp_path / "etcd"), owner=None)
    LeftBehind(OTHER, "2026-11-23T09:00:00Z").save(agent.standing.places.left_behind)
    record.save(agent.standing.places.moving)

    async def go() -> list[tuple[str, str]]:
        for _ in range(2):
            await agent.round()
        return [(step.step, step.action) for step in await agent.answers.plan()]

    found = asyncio.run(go())
    [told] = [each for each in agent.answers.status().failures if each.code == "datastore-moves"]
    assert OTHER in told.found and agent.answers.status().phase is not Phase.READY
    return found


def test_what_writes_stops_and_pods_run_on(tmp_path: Path) -> None:
    """That somebody has said meanwhile that the node is out does not count."""
    systemd = Obedient()
    found = planned(tmp_path, Moving("x", ETCD, OTHER, ""), systemd)
    assert systemd.asked == [f"stop {unit}" for unit in USERS]
    assert found[-1] == ("move", "wait") and len(found) == len(USERS) + 1


def test_only_the_new_datastore_runs_until_it_has_answered(tmp_path: Path) -> None:
    systemd = Obedient()
    found = planned(tmp_path, Moving("x", ETCD, OTHER, "", pki={"key": ""}, placed=True), systemd)
    assert systemd.asked == [f"stop {unit}" for unit in USERS if unit != UNITS[ETCD]]
    assert found[-2:] == [("move-back", "none"), ("moved", "blocked")]


def test_what_nodes_ask_is_asked_of_the_datastore_of_now(tmp_path: Path) -> None:
    agent = agent_of(tmp_path, Obedient(), control_planes=("192.0.2.7", OTHER))
    paths = {resource.canonical for resource in agent.answers.for_nodes().router.resources()}
    assert {MOVE, REST, "/v1/join", "/v1/fence"} <= paths
    assert agent.answers.partners().outside() == frozenset()
    Moved(ETCD, "x", "", awaited=(OTHER,)).save(agent.standing.places.moved)
    assert agent.answers.partners().outside() == {OTHER}
    assert agent.answers.mover.describe(ETCD).authority("etcd/ca").name == "etcd/ca"
    course = agent.standing.known()
    datastore = replace(course.node.config.datastore, type=ETCD)
    course.node = replace(course.node, config=replace(course.node.config, datastore=datastore))
    assert type(agent.answers.partners()).__name__ == "EtcdPartners"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet.make(tmp_path_factory.mktemp("three") / "fleet", HOSTS[:1])


def over_tls(plane: Plane, ask: Callable[[str], object]) -> object:
    """Serve the plane's door for nodes, and ask at its address with its own agent's certificate."""

    async def go() -> object:
        app = web.Application(middlewares=[errors.middleware])
        nodes.add_moves(app, plane.mover, plane.partaker)
        described = plane.describe(plane.kind)
        own, authority = described.certificate("basalt-api"), described.authority("ca").trusted.read_text()
        door = TlsDoor(lambda: app)
        await door.listen(Tls(own.certificate, own.key, (authority,), required=False), "127.0.0.1:0")
        try:
            return await asyncio.to_thread(ask, f"127.0.0.1:{door.port}")
        finally:
            await door.close()

    return asyncio.run(go())


def test_control_planes_ask_each_other_over_tls(three: Fleet, tmp_path: Path) -> None:
    plane = three.copied(tmp_path / "fleet").first
    described = plane.describe(DQLITE)
    rest = Rest("x", "etcd", OTHER, "", dry=False)

    def ask(host: str) -> object:
        with pytest.raises(Refused, match=f"{OTHER} is no control plane that this one knows"):
            joining.ask(described, host, REST, rest)
        Moving("x", DatastoreType.ETCD, OTHER, "").save(plane.places.moving)
        assert Resting.from_dict(joining.ask(described, host, REST, rest)) == Resting("stopping")
        return Outcome.from_dict(joining.ask(described, host, MOVE, Question("node-8", "y")))

    assert over_tls(plane, ask) == Outcome("over")


def test_only_a_control_plane_has_another_ones_datastore_rest(three: Fleet, tmp_path: Path) -> None:
    plane = three.copied(tmp_path / "fleet").first
    described = plane.describe(DQLITE)
    agent, kubelet = described.certificate("agent"), described.certificate("kubelet-client")
    for own, others in ((agent.certificate, kubelet.certificate), (agent.key, kubelet.key)):
        content = others.read_bytes()
        own.unlink()
        own.write_bytes(content)

    def ask(host: str) -> object:
        for path, message in (
            (REST, Rest("x", "etcd", OTHER, "", dry=True)),
            (MOVE, Question("node-8", "x")),
        ):
            with pytest.raises(BasaltError, match="only a control plane may ask this"):
                joining.ask(described, host, path, message)
        return None

    over_tls(plane, ask)
