# SPDX-License-Identifier: Apache-2.0
"""A machine that leaves: when it begins, in which order it stops, and when it is reset; systemd and API are played."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot import factory
from firstboot.agent.rounds import Agent
from firstboot.agent.standing import Course, Standing
from firstboot.api.node import NotYet
from firstboot.backup.places import Places
from firstboot.cluster.leaving import ANNOTATION, STOPPED, Departure, Leaver, company
from firstboot.cluster.records import Machine, machine_object
from firstboot.config import Config
from firstboot.failure import BasaltError, Refused
from firstboot.intake import Intake
from firstboot.kube import Client, KubeError
from firstboot.milestones import Milestones
from firstboot.plan import UNITS, Memory
from firstboot.report.status import Part, Phase, State, Status
from firstboot.services.model import Node
from firstboot.systemd import Systemd, Unit

OTHER, LOCAL = "192.0.2.1", "127.0.0.1"
WORKER = Node(Config.from_dict({"role": "worker"}), "w-1", "192.0.2.9", control_planes=(OTHER,))
FOUNDER = Node(Config.from_dict({"role": "control-plane"}), "cp-1", OTHER)
NODE = {"metadata": {"name": "w-1", "uid": "7", "annotations": {ANNOTATION: "true"}}}
PLAIN = {"metadata": {"name": "w-1", "uid": "7"}}
GONE = {"reason": "NotFound", "details": {"kind": "nodes", "name": "w-1"}}


@dataclass
class Manager:
    """systemd: units that run, and what was asked of it."""

    running: list[str] = field(default_factory=lambda: sorted(UNITS))
    asked: list[str] = field(default_factory=list)
    slow: bool = False

    async def units(self, names: Any) -> dict[str, Unit]:
        state = {name: "active" if name in self.running else "inactive" for name in names}
        if self.slow:
            state |= {name: "deactivating" for name in self.asked}
        return {name: Unit(name, active, "", "") for name, active in state.items()}

    async def stop(self, name: str) -> None:
        self.asked.append(name)
        self.running.remove(name)

    async def power_off(self) -> None:
        self.asked.append("power off")


@dataclass
class Api:
    """What each control plane says about the Node; nothing for one that does not answer."""

    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    machines: list[str] = field(default_factory=list)

    async def get(self, path: str) -> Any:
        if path == "/api/v1/nodes":
            self._up(path)
            return {"items": [{"metadata": {"name": name}} for name in self.nodes]}
        if "/configmaps" in path:
            return {"items": [machine_object(Machine(name, "", "", "")) for name in self.machines]}
        status, body = self._up(path)
        return body if status == 200 else None

    def _up(self, path: str) -> tuple[int, Any]:
        if LOCAL not in self.answers:
            raise KubeError("GET", path, 0, "no answer")
        return self.answers[LOCAL]

    async def get_text(self, url: str, trust: object, timeout: float) -> tuple[int, str]:
        host = url.removeprefix("https://").partition(":")[0]
        assert url.endswith(":6443/api/v1/nodes/w-1")
        self.asked.append(host)
        status, body = self.answers.get(host, (0, "cannot be reached"))
        return status, body if isinstance(body, str) else json.dumps(body)


@dataclass
class World:
    folder: Path
    api: Api = field(default_factory=Api)
    manager: Manager = field(default_factory=Manager)
    firmware: str = ""

    def __post_init__(self) -> None:
        self.leaver = self.started()

    def started(self) -> Leaver:
        """Return the machine's side as after a start of the agent."""
        record = self.folder / "leaving.json"
        return Leaver(
            cast("Systemd", self.manager), cast("Client", self.api), record, self.firm, self.firm_request
        )

    def firm(self) -> None:
        if self.firmware:
            raise BasaltError(self.firmware, "Write the image anew.")

    def firm_request(self) -> None:
        self.firm()
        self.manager.asked.append("factory reset")

    def told(self, node: Node = WORKER, answers: bool = True) -> bool:
        return asyncio.run(self.leaver.told(node, answers))

    def go_on(self, times: int = 1) -> None:
        for _ in range(times):
            asyncio.run(self.leaver.go_on(asyncio.run(self.manager.units(UNITS))))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize(
    ("node", "answers", "api", "expected"),
    [
        (WORKER, True, {LOCAL: (200, NODE)}, True),
        (WORKER, True, {LOCAL: (200, PLAIN)}, False),
        (WORKER, True, {LOCAL: (404, GONE)}, False),
        (WORKER, True, {}, False),
        (WORKER, False, {LOCAL: (200, NODE)}, False),
        (FOUNDER, True, {LOCAL: (200, NODE)}, False),
    ],
    ids=["told", "not told", "deleted by hand", "no answer", "not worth asking", "alone"],
)
def test_a_machine_begins_only_when_its_node_says_so(
    world: World, node: Node, answers: bool, api: dict[str, Any], expected: bool
) -> None:
    world.api.answers = api
    assert world.told(node, answers) is expected
    assert (world.leaver.departure is not None) is expected
    assert Departure.load(world.leaver.record) == (Departure("w-1", "7", (OTHER,)) if expected else None)


def test_the_kubelet_stops_first_and_the_datastore_runs_until_the_cluster_has_forgotten_the_node(
    world: World,
) -> None:
    world.api.answers = {LOCAL: (200, NODE), OTHER: (200, NODE)}
    world.told()
    world.go_on(len(STOPPED) + 3)
    assert world.manager.asked == list(STOPPED)
    assert {"k8s-dqlite", "etcd", "kube-apiserver", "containerd"} <= set(world.manager.running)
    [failure] = world.leaver.failures
    assert (failure.code, "remove-node w-1" in failure.remedy) == ("leave-waits", True)
    world.api.answers = {OTHER: (404, GONE)}
    world.go_on(3)
    assert world.manager.asked == [*STOPPED, "factory reset", "power off"], "once"
    assert world.leaver.failures == ()


def test_a_service_that_takes_its_time_is_waited_for(world: World) -> None:
    world.api.answers = {LOCAL: (200, NODE)}
    world.told()
    world.manager.slow = True
    world.go_on(3)
    assert world.manager.asked == ["kubelet"]


@pytest.mark.parametrize(
    ("answers", "resets", "found"),
    [
        ({OTHER: (404, GONE)}, True, ""),
        ({LOCAL: (404, GONE)}, True, ""),
        ({OTHER: (200, {"metadata": {"name": "w-1", "uid": "8"}})}, True, ""),
        ({OTHER: (200, NODE), LOCAL: (404, GONE)}, False, "has not taken the node out yet"),
        ({OTHER: (404, "404 page not found")}, False, "no control plane says"),
        ({OTHER: (404, {"details": {"kind": "nodes", "name": "w-2"}})}, False, "no control plane says"),
        ({OTHER: (404, {"reason": "NotFound", "details": {}})}, False, "no control plane says"),
        ({OTHER: (403, GONE)}, False, "no control plane says"),
        ({OTHER: (503, "")}, False, "no control plane says"),
        ({}, False, "no control plane says"),
    ],
)
def test_only_a_clear_word_of_the_cluster_resets_a_machine(
    world: World, answers: dict[str, Any], resets: bool, found: str
) -> None:
    world.manager.running = []
    world.leaver.departure = Departure("w-1", "7", (OTHER,))
    world.api.answers = answers
    world.go_on()
    assert ("power off" in world.manager.asked) is resets
    assert [found in failure.found for failure in world.leaver.failures] == ([] if resets else [True])


def test_what_was_taken_back_ends_it(world: World) -> None:
    world.api.answers = {LOCAL: (200, NODE)}
    world.told()
    world.go_on(len(STOPPED))
    world.api.answers = {OTHER: (200, PLAIN)}
    world.go_on()
    assert (world.leaver.departure, world.leaver.failures) == (None, ())
    assert not world.leaver.record.exists() and "power off" not in world.manager.asked


@pytest.mark.parametrize(
    ("answers", "begins", "recorded"),
    [
        ({OTHER: (404, GONE)}, True, True),
        ({OTHER: (200, NODE)}, True, True),
        ({OTHER: (200, PLAIN)}, False, False),
        ({}, False, True),
    ],
    ids=["forgotten meanwhile", "still to leave", "taken back", "nobody answers: its vote may be needed"],
)
def test_a_machine_that_was_started_again_asks_before_it_starts_anything(
    world: World, answers: dict[str, Any], begins: bool, recorded: bool
) -> None:
    world.api.answers = {LOCAL: (200, NODE)}
    world.told()
    world.leaver, world.api.answers = world.started(), answers
    assert world.told(answers=False) is begins
    assert world.leaver.record.exists() is recorded


def test_a_machine_that_cannot_be_reset_says_so_and_stays_off_its_cluster(world: World) -> None:
    world.firmware = "no EFI variables"
    world.api.answers = {LOCAL: (200, NODE), OTHER: (404, GONE)}
    world.told()
    world.go_on(len(STOPPED) + 2)
    [failure] = world.leaver.failures
    assert (failure.code, failure.found, failure.remedy) == (
        "reset-failed",
        "no EFI variables",
        "Write the image anew.",
    )
    assert world.manager.asked == list(STOPPED)


def test_a_reset_asks_nobody(world: World) -> None:
    world.leaver.reset("w-1")
    world.go_on(len(STOPPED) + 1)
    assert world.manager.asked == [*STOPPED, "factory reset", "power off"]
    assert world.api.asked == []


@pytest.mark.parametrize(
    ("node", "nodes", "machines", "found"),
    [
        (FOUNDER, ["cp-1"], ["cp-1"], None),
        (FOUNDER, [], [], None),
        (FOUNDER, ["cp-1", "w-1"], ["cp-1", "w-2"], "cp-1 is the only control plane of w-1, w-2"),
        (replace(FOUNDER, control_planes=(OTHER,)), ["cp-1"], ["cp-1"], None),
        (
            replace(FOUNDER, control_planes=(OTHER, "192.0.2.2")),
            ["cp-1"],
            [],
            "cp-1 is a member of a cluster of several machines",
        ),
        (WORKER, [], [], "w-1 is a member of a cluster of several machines"),
        (FOUNDER, None, [], "nobody can say whether cp-1 is the only machine of its cluster: "),
    ],
)
def test_who_is_not_alone(
    world: World, node: Node, nodes: list[str] | None, machines: list[str], found: str | None
) -> None:
    world.api.answers = {} if nodes is None else {LOCAL: (200, {})}
    world.api.nodes, world.api.machines = nodes or [], machines
    reasons = asyncio.run(company(cast("Client", world.api), node))
    assert reasons is None if found is None else reasons is not None and reasons[0].startswith(found)
    assert reasons is None or "--force" in reasons[1]


def agent(world: World, node: Node | None = None) -> Agent:
    """Return an agent whose machine the world plays."""
    standing = Standing(
        cast("Client", world.api), cast("Memory", None), world.leaver, Places(world.folder, (), owner=None)
    )
    if node is not None:
        standing.course = cast("Course", type("", (), {"node": node})())
    milestones = Milestones(world.folder / "milestones.json")
    return Agent(cast("Systemd", world.manager), Intake(world.folder), milestones, standing)


def test_the_agent_resets_one_that_is_alone_and_shows_it(world: World) -> None:
    world.api.answers, world.api.nodes = {LOCAL: (200, {})}, ["cp-1"]
    made = agent(world, FOUNDER)
    part = Part(State.HEALTHY)
    made.standing.current = Status(phase=Phase.READY, components={"kubelet": part, "kube-apiserver": part})
    assert asyncio.run(made.answers.reset(force=False)) == "cp-1"
    for _ in range(len(STOPPED) + 1):
        asyncio.run(made.round())
    shown = made.answers.status()
    assert (shown.phase, shown.node.name, shown.components) == (Phase.LEAVING, "cp-1", {})
    assert world.manager.asked[-1] == "power off"
    with pytest.raises(NotYet, match="a node that is leaving removes no other nodes"):
        asyncio.run(made.answers.remove_node("w-1", False, 60))


def test_the_agent_refuses_a_reset_that_others_would_miss_or_that_cannot_be(world: World) -> None:
    made = agent(world, WORKER)
    with pytest.raises(Refused, match="w-1 is a member of a cluster") as raised:
        asyncio.run(made.answers.reset(force=False))
    assert "basalt remove-node w-1" in raised.value.failures[0].remedy
    assert asyncio.run(made.answers.reset(force=True)) == "w-1"
    world.leaver.departure = None
    world.firmware = "no EFI variables"
    with pytest.raises(Refused, match="no EFI variables"):
        asyncio.run(made.answers.reset(force=True))
    assert world.leaver.departure is None
    with pytest.raises(NotYet, match="a worker removes no other nodes"):
        asyncio.run(made.answers.remove_node("cp-1", False, 60))


def test_the_agent_leaves_once_its_node_says_so(world: World) -> None:
    world.api.answers = {LOCAL: (200, NODE), OTHER: (200, NODE)}
    made = agent(world, WORKER)
    made.standing.current = Status(phase=Phase.READY, components={"api-balancer": Part(State.HEALTHY)})
    asyncio.run(made.round())
    assert made.standing.wake.is_set() and world.manager.asked == []
    for _ in range(len(STOPPED) + 1):
        asyncio.run(made.round())
    assert (made.answers.status().phase, [each.code for each in made.answers.status().failures]) == (
        Phase.LEAVING,
        ["leave-waits"],
    )
    world.api.answers = {OTHER: (404, GONE)}
    asyncio.run(made.round())
    assert world.manager.asked[-1] == "power off"


def test_a_machine_without_a_document_can_be_reset(world: World) -> None:
    assert asyncio.run(agent(world).answers.reset(force=False)) == ""
    assert world.leaver.departure == Departure("")


@pytest.mark.parametrize("before", [None, b"", b"\x07\0\0\0n\0o\0\0\0", factory.CONTENT])
def test_the_request_is_an_efi_variable_of_systemds(tmp_path: Path, before: bytes | None) -> None:
    variable = tmp_path / factory.VARIABLE.name
    (tmp_path / "Boot0000-8be4df61-93ca-11d2-aa0d-00e098032b8c").touch()
    if before is not None:
        variable.write_bytes(before)
    factory.request(variable)
    assert variable.read_bytes() == b"\x07\0\0\0y\0e\0s\0\0\0"


@pytest.mark.parametrize("there", [True, False], ids=["nothing in it", "no folder"])
def test_without_efi_variables_nothing_can_be_asked_for(tmp_path: Path, there: bool) -> None:
    folder = tmp_path if there else tmp_path / "none"
    with pytest.raises(BasaltError, match="no EFI variables") as raised:
        factory.request(folder / factory.VARIABLE.name)
    assert "Write the image" in raised.value.hint
    assert os.listdir(tmp_path) == []
