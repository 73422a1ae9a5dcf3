# SPDX-License-Identifier: Apache-2.0
"""A disk without room is told, with what to do, and a node that has none is not ready."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from firstboot import space
from firstboot.codes import Code
from firstboot.facts import Facts
from firstboot.failure import Failure
from firstboot.intake import Taken
from firstboot.reconcile import Pass
from firstboot.report.status import Phase

from .test_agent_settings import agent, healthy, node
from .test_cluster_settings import FIRST, Api

BLOCK = 4096


def disk(free: int) -> os.statvfs_result:
    """Return what statvfs says of a disk of 1 GiB with so many free bytes, and more that only root may use."""
    return os.statvfs_result(
        (BLOCK, BLOCK, (1 << 30) // BLOCK, (free + space.LEAST) // BLOCK, free // BLOCK, 1, 1, 1, 0, 255)
    )


@pytest.mark.parametrize(("free", "told"), [(0, True), (space.LEAST - BLOCK, True), (space.LEAST, False)])
def test_too_little_room_is_told(
    free: int, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: disk(free))
    failure = space.shortage(tmp_path)
    assert (failure is not None) is told
    if failure:
        assert (failure.code, failure.path) == ("disk-full", str(tmp_path))
        assert failure.found == "less than 128 of 1024 MiB are free on the disk"


def identity(shortage: Failure | None) -> Failure | None:
    return shortage


def test_a_node_without_room_is_not_ready_although_all_services_are_well(tmp_path: Path) -> None:
    made = agent(tmp_path, node(), Api(FIRST))
    course = made.standing.course
    assert course is not None
    full = Failure(Code.DISK_FULL, "/var/lib", "0 of 9 MiB are free on the disk", "Make room.")
    phases = []
    for shortage in (full, None, full, None):
        made.account.shortage = partial(identity, shortage)
        taken = Taken(Facts("node-1"), node=course.node)
        shown = made.account.running(taken, course, Pass((), {}, ()), healthy(course))
        assert (full in shown.failures) is (shortage is not None)
        phases.append(shown.phase)
    assert phases == [Phase.STARTING, Phase.READY, Phase.DEGRADED, Phase.READY]
