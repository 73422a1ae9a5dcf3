# SPDX-License-Identifier: Apache-2.0
"""The agent's rounds when the datastore must not run: while it is looked at or exchanged, or the node is out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot.agent.rounds import Agent
from firstboot.agent.standing import Course, Standing
from firstboot.backup.places import Decided, Places
from firstboot.cluster.fence import LeftBehind
from firstboot.cluster.leaving import Leaver
from firstboot.config import Config
from firstboot.facts import Facts
from firstboot.failure import BasaltError
from firstboot.intake import Intake, Taken
from firstboot.kube import Client
from firstboot.milestones import Milestones
from firstboot.pki.catalogue import Catalogue, catalogue
from firstboot.pki.verdict import Ledger
from firstboot.plan import UNITS, Memory
from firstboot.report.status import Phase
from firstboot.services.model import Node
from firstboot.steps.objects import Applied
from firstboot.steps.units import DATASTORES
from firstboot.systemd import Systemd, Unit

OBJECT = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}


class Running:
    """All units start, and do not stop when they are asked to."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def units(self, names: Iterable[str]) -> dict[str, Unit]:
        return {name: Unit(f"{name}.service", "activating", "start", f"/{name}") for name in names}

    async def stop(self, name: str) -> None:
        self.asked.append(f"stop {name}")

    async def start(self, name: str) -> None:
        self.asked.append(f"start {name}")

    async def restart(self, name: str) -> None:
        self.asked.append(f"restart {name}")


class Silent(Client):
    """Nobody answers."""

    async def get_text(self, *_: Any, **__: Any) -> tuple[int, str]:
        return 0, "no answer"

    async def get(self, path: str) -> Any:
        return {"items": []}


class Decidedly:
    """The intake of a node whose document does not change."""

    def __init__(self, root: Path) -> None:
        self.membership = root / "membership.json"
        self.node = Node(Config.from_dict({"role": "control-plane"}), "node-1", "192.0.2.7")

    def look(self) -> Taken:
        return Taken(Facts("node-1"), node=self.node, addresses=("192.0.2.7",))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let courses have no steps, and all that a restore writes be in a folder: none of it is for the tests' machine."""

    def described(config: Config, name: str, addresses: Sequence[str]) -> Catalogue:
        return catalogue(config, name, addresses, tmp_path / "kubernetes").unowned()

    monkeypatch.setattr("firstboot.agent.standing.plan", lambda *_: ())
    for user in ("standing", "answers"):
        monkeypatch.setattr(f"firstboot.agent.{user}.catalogue", described)
    monkeypatch.setattr("firstboot.datastores.dqlite.FOLDER", tmp_path / "k8s-dqlite")


def agent_of(
    tmp_path: Path, systemd: Any, applied: Applied | None = None, control_planes: tuple[str, ...] = ()
) -> Agent:
    """Return the agent of a control plane that has been ready."""
    intake = Decidedly(tmp_path)
    intake.node = replace(intake.node, control_planes=control_planes)
    memory = Memory(Ledger(), applied or Applied(), intake.membership)
    standing = Standing(
        Silent(),
        memory,
        Leaver(cast(Systemd, systemd), Silent(), tmp_path / "leaving.json"),
        Places(tmp_path, (tmp_path / "k8s-dqlite",), owner=None),
        course=Course.of(intake.node, memory, ["192.0.2.7"]),
        was_ready=True,
    )
    milestones = Milestones(tmp_path / "milestones.json")
    return Agent(cast(Systemd, systemd), cast(Intake, intake), milestones, standing)


class Obedient(Running):
    """Units that stop when they are asked to; slow: one that takes its time."""

    slow = ""

    async def units(self, names: Iterable[str]) -> dict[str, Unit]:
        return {
            name: replace(unit, active="inactive", sub="dead") if self._rests(name) else unit
            for name, unit in (await super().units(names)).items()
        }

    def _rests(self, name: str) -> bool:
        return f"stop {name}" in self.asked and name != self.slow


def test_a_decided_restore_stops_everything_and_starts_nothing(tmp_path: Path) -> None:
    systemd, applied = Obedient(), Applied()
    systemd.slow = "kube-apiserver"
    applied.note(OBJECT)
    agent = agent_of(tmp_path, systemd, applied)
    Decided("2026-11-23T09:00:00Z", "basalt", 4711, {}).save(agent.standing.places.decided)

    async def go(rounds: int) -> dict[str, str]:
        for _ in range(rounds):
            await agent.round()
        return {step.step: step.action for step in await agent.answers.plan()}

    agent.standing.current = replace(agent.standing.current, phase=Phase.READY)
    agent.answers.datastore.decided()
    assert agent.answers.status().phase is Phase.STARTING, "before the next round, too"
    planned = asyncio.run(go(2))
    asked = {f"stop {unit}" for unit in UNITS if unit not in ("containerd", *DATASTORES)}
    assert set(systemd.asked) == asked, "an API server that cannot write any more does not end"
    assert (planned["stopped:etcd"], planned["restore"]) == ("wait", "blocked") and len(planned) == len(UNITS)
    systemd.slow = ""
    assert asyncio.run(go(1))["restore"] == "exchange"
    assert set(systemd.asked) == asked | {f"stop {unit}" for unit in DATASTORES}
    assert agent.answers.status().phase is Phase.STARTING and not agent.standing.was_ready
    assert not applied.fresh(OBJECT), "the objects are in another datastore then"
    assert agent.standing.places.decided.exists()


def test_the_datastore_rests_while_its_data_is_looked_at_and_nothing_else_is_done(tmp_path: Path) -> None:
    systemd = Obedient()
    agent = agent_of(tmp_path, systemd)

    async def go() -> None:
        enough = asyncio.Event()

        async def look() -> None:
            async with agent.answers.datastore.rest():
                assert systemd.asked == ["stop k8s-dqlite"], "what runs goes on, and nothing is started"
                await enough.wait()

        looking = asyncio.create_task(look())
        await asyncio.sleep(0)
        assert agent.standing.wake.is_set()
        for _ in range(3):
            await agent.round()
        assert [(step.step, step.action) for step in await agent.answers.plan()] == [
            ("stopped:k8s-dqlite", "none")
        ]
        assert not looking.done()
        enough.set()
        await looking
        assert await agent.answers.plan() == [], "then all is as before"

    asyncio.run(go())


def test_a_datastore_that_does_not_stop_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("firstboot.agent.rest.REST_SECONDS", 0.01)
    agent = agent_of(tmp_path, Running())

    async def go() -> None:
        with pytest.raises(BasaltError, match="k8s-dqlite does not stop"):
            async with agent.answers.datastore.rest():
                pass

    asyncio.run(go())
    assert agent.standing.rest is None


def test_a_control_plane_that_was_left_behind_stops_everything_and_may_be_reset(tmp_path: Path) -> None:
    systemd = Obedient()
    agent = agent_of(tmp_path, systemd, control_planes=("192.0.2.7", "192.0.2.8"))
    agent.standing.leaver.require = lambda: None
    LeftBehind("192.0.2.8", "2026-11-23T09:00:00Z").save(agent.standing.places.left_behind)

    async def go() -> None:
        for _ in range(2):
            await agent.round()
        assert set(systemd.asked) == {f"stop {unit}" for unit in UNITS if unit != "containerd"}
        found = agent.answers.status()
        assert (found.phase, [each.code for each in found.failures]) == (Phase.DEGRADED, ["left-behind"])
        assert "192.0.2.8" in found.failures[0].found and found.components == {}
        assert await agent.answers.reset(force=False) == "node-1", "nobody counts on it"

    asyncio.run(go())


def test_a_recovery_makes_a_machine_that_was_left_behind_a_cluster_again(tmp_path: Path) -> None:
    agent = agent_of(tmp_path, Running())
    LeftBehind("192.0.2.8", "2026-11-23T09:00:00Z").save(agent.standing.places.left_behind)
    Decided("2026-11-23T09:00:00Z", "basalt", 4711, {}, alone="192.0.2.7").save(agent.standing.places.decided)

    async def go() -> str:
        await agent.round()
        return (await agent.answers.plan())[-1].step

    assert asyncio.run(go()) == "restore"
    assert agent.answers.status().failures == ()
