# SPDX-License-Identifier: Apache-2.0
"""The agent's rounds from the moment a restore is decided: everything stops, and nothing is started before the end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from firstboot.agent import Agent
from firstboot.backup.places import Decided, Places
from firstboot.cluster.leaving import Leaver
from firstboot.config import Config
from firstboot.facts import Facts
from firstboot.intake import Intake, Taken
from firstboot.kube import Client
from firstboot.milestones import Milestones
from firstboot.pki.verdict import Ledger
from firstboot.plan import UNITS, Memory
from firstboot.report.status import Phase
from firstboot.services.model import Node
from firstboot.steps.objects import Applied
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


def test_a_decided_restore_stops_everything_and_starts_nothing(tmp_path: Path) -> None:
    systemd, places = Running(), Places(tmp_path, (tmp_path / "k8s-dqlite",), owner=None)
    Decided("2026-11-23T09:00:00Z", "basalt", 4711, {}).save(places.decided)
    applied = Applied()
    applied.note(OBJECT)
    agent = Agent(
        cast(Systemd, systemd),
        Silent(),
        cast(Intake, Decidedly(tmp_path)),
        Milestones(tmp_path / "milestones.json"),
        Memory(Ledger(), applied, tmp_path / "membership.json"),
        Leaver(cast(Systemd, systemd), Silent(), tmp_path / "leaving.json"),
        was_ready=True,
        places=places,
    )

    async def go() -> list[tuple[str, str]]:
        for _ in range(2):
            await agent.round()
        return [(step.step, step.action) for step in await agent.plan()]

    agent.current = replace(agent.current, phase=Phase.READY)
    agent.datastore.decided()
    assert agent.status().phase is Phase.STARTING, "before the next round, too"
    planned = asyncio.run(go())
    assert set(systemd.asked) == {f"stop {unit}" for unit in UNITS if unit != "containerd"}
    order = [systemd.asked.index(f"stop {unit}") for unit in ("kubelet", "kube-apiserver", "etcd")]
    assert order == sorted(order), "what writes ends while it still can"
    assert planned[-1] == ("restore", "wait") and len(planned) == len(UNITS)
    assert agent.status().phase is Phase.STARTING and not agent.was_ready
    assert not applied.fresh(OBJECT), "the objects are in another datastore then"
    assert places.decided.exists()
