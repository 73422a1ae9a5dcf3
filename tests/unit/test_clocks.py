# SPDX-License-Identifier: Apache-2.0
"""Clocks that are apart are told by the nodes that can know it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from firstboot import clocks
from firstboot.clocks import Clocks
from firstboot.config import Role
from firstboot.kube import Client, KubeError

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
HOUR = 3600.0


class Cluster:
    """What an API server says of heartbeats, by node: seconds from now; None: it has none yet."""

    def __init__(self, **heartbeats: float | None) -> None:
        self.ahead = 0.0
        self.answers = True
        self.heartbeats = heartbeats

    async def get(self, path: str) -> Any:
        if not self.answers:
            raise KubeError("GET", path, 0, "no answer in time")
        return {"items": [lease(name, seconds) for name, seconds in self.heartbeats.items()]}


def lease(name: str, seconds: float | None) -> dict[str, Any]:
    """Return a heartbeat as nodes make it."""
    time = (
        {} if seconds is None else {"renewTime": f"{NOW + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S.%fZ}"}
    )
    return {"metadata": {"name": name}, "spec": {"holderIdentity": name, **time}}


def looked(cluster: Cluster, role: Role, known: Clocks | None = None) -> list[str]:
    """Return what is told of clocks."""
    known = known or Clocks(cast(Client, cluster), NOW.timestamp)
    asyncio.run(known.look(role))
    assert {failure.code for failure in known.failures} <= {"clocks-apart"}
    return [failure.found for failure in known.failures]


def test_a_heartbeat_from_the_future_was_made_by_a_clock_ahead() -> None:
    cluster = Cluster(good=-9, late=59, ahead=2 * HOUR, off=-2 * HOUR, new=None)
    assert looked(cluster, Role.CONTROL_PLANE) == [
        "the clock of this node is 7200 seconds behind that of ahead"
    ]


def test_what_is_known_stays_while_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "EVERY", 0.0)
    cluster = Cluster(ahead=HOUR)
    known = Clocks(cast(Client, cluster), NOW.timestamp)
    told = looked(cluster, Role.CONTROL_PLANE, known)
    cluster.answers = False
    assert looked(cluster, Role.CONTROL_PLANE, known) == told != []
    cluster.answers, cluster.heartbeats = True, {"ahead": 0}
    assert looked(cluster, Role.CONTROL_PLANE, known) == []


@pytest.mark.parametrize(
    ("ahead", "told"),
    [
        (61.0, ["the clock of this node is 61 seconds ahead of that of the control plane"]),
        (-2 * HOUR, ["the clock of this node is 7200 seconds behind that of the control plane"]),
        (-59.0, []),
    ],
)
def test_a_worker_goes_by_what_api_servers_answer(ahead: float, told: list[str]) -> None:
    cluster = Cluster(ahead=2 * HOUR)
    cluster.ahead = ahead
    assert looked(cluster, Role.WORKER) == told
