# SPDX-License-Identifier: Apache-2.0
"""What the agent has to do with the cluster's settings: who may change them, and that a change is looked at at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot.agent.answers import SETTINGS
from firstboot.agent.rounds import Agent
from firstboot.agent.standing import Course, Standing
from firstboot.api.node import NotYet
from firstboot.backup.places import Places
from firstboot.cluster.followed import Followed
from firstboot.cluster.leaving import Leaver
from firstboot.cluster.rotation import Rotation, Stage
from firstboot.config import Config
from firstboot.facts import Facts
from firstboot.intake import Intake, Taken
from firstboot.milestones import Milestones
from firstboot.pki.catalogue import catalogue
from firstboot.pki.verdict import Ledger
from firstboot.plan import Memory, plan, wanted
from firstboot.reconcile import Pass
from firstboot.report import status
from firstboot.services.model import Node
from firstboot.steps.objects import Applied
from firstboot.steps.settings import FollowSettings, TellVersion

from .test_cluster_settings import BACKEND, FIRST, Api

FOLLOWED = Followed(1, FIRST.time, dict(FIRST.settings), {})


def node(role: str = "control-plane") -> Node:
    cluster = {} if role == "control-plane" else {"token": "0" * 32, "endpoints": ["192.0.2.1"]}
    config = Config.from_dict({"role": role, "cluster": cluster})
    return Node(config, "node-1", "192.0.2.7", followed=FOLLOWED)


def agent(root: Path, followed: Node, api: Api) -> Agent:
    """Return one that follows a node, whose certificates are below a folder."""
    memory = Memory(Ledger(), Applied(), root / "membership.json")
    certificates = catalogue(followed.config, followed.name, [followed.ip], root)
    goal = wanted(followed)
    standing = Standing(
        api, memory, Leaver(cast(Any, None), api, root / "leaving.json"), Places(root, (), owner=None)
    )
    standing.course = Course(followed, goal, certificates, plan(followed, goal, certificates, memory))
    return Agent(cast(Any, None), Intake(root), Milestones(root / "milestones.json"), standing)


def certify(made: Agent) -> None:
    assert made.standing.course is not None
    path = made.standing.course.certificates.certificate("agent").certificate
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_a_change_is_followed_without_waiting(tmp_path: Path) -> None:
    api = Api(FIRST)
    made = agent(tmp_path, node(), api)
    with pytest.raises(NotYet, match="no certificates yet"):
        assert made.answers.settings
    certify(made)
    assert made.standing.course is not None
    step = next(each for each in made.standing.course.steps if isinstance(each, FollowSettings))
    made.standing.course.verdicts.note(step)
    asyncio.run(made.answers.settings.change({BACKEND: "host-gw"}, "root"))
    assert made.standing.wake.is_set() and not made.standing.course.verdicts.holds(SETTINGS)


def test_a_worker_reads_and_does_not_change(tmp_path: Path) -> None:
    api = Api(FIRST)
    made = agent(tmp_path, node("worker"), api)
    certify(made)
    with pytest.raises(NotYet, match="a worker changes no settings"):
        asyncio.run(made.answers.settings.change({BACKEND: "host-gw"}, "root"))
    found = asyncio.run(made.answers.settings.versions())
    assert found is not None and found.newest == api.newest == FIRST
    assert not made.standing.wake.is_set()


def test_what_a_node_follows_is_in_its_status_and_on_its_node(tmp_path: Path) -> None:
    made = agent(tmp_path, node(), Api(FIRST))
    assert made.standing.course is not None
    told = [each for each in made.standing.course.steps if isinstance(each, TellVersion)]
    assert [(each.node, each.version) for each in told] == [("node-1", 1)]
    taken = Taken(Facts("node-1"), node=made.standing.course.node, addresses=("192.0.2.7",))
    shown = made.account.running(taken, made.standing.course, Pass((), {}, ()), healthy(made.standing.course))
    assert shown.settings == status.Settings(1, FIRST.time)
    made.standing.course.node = replace(made.standing.course.node, followed=None)
    unfollowed = made.account.running(
        taken, made.standing.course, Pass((), {}, ()), healthy(made.standing.course)
    )
    assert unfollowed.settings is None


def test_a_rotation_of_the_ca_is_in_the_status_of_who_follows_it(tmp_path: Path) -> None:
    made = agent(tmp_path, node(), Api(FIRST))
    assert made.standing.course is not None
    taken = Taken(Facts("node-1"), node=made.standing.course.node, addresses=("192.0.2.7",))
    quiet = made.account.running(taken, made.standing.course, Pass((), {}, ()), healthy(made.standing.course))
    assert quiet.rotation is None
    begun = "2026-11-23T09:00:00Z"
    rotation = Rotation("0123456789", Stage.TRUST, begun, begun, "root", "", "", "", True)
    made.standing.course.node = replace(made.standing.course.node, rotation=rotation)
    made.standing.memory.behind.of, made.standing.memory.behind.names = rotation, ("w-1",)
    shown = made.account.running(taken, made.standing.course, Pass((), {}, ()), healthy(made.standing.course))
    assert shown.rotation == status.Rotation("trust", begun, ("w-1",))
    assert [failure.code for failure in shown.failures] == ["rotation-behind"], "it takes long"
    assert shown.phase.ready, "everything works"


def test_only_a_control_plane_that_is_ready_replaces_the_ca(tmp_path: Path) -> None:
    worker = agent(tmp_path, node("worker"), Api(FIRST))
    with pytest.raises(NotYet, match="a worker replaces no CA"):
        asyncio.run(worker.answers.rotator.cancel())
    made = agent(tmp_path, node(), Api(FIRST))
    with pytest.raises(NotYet, match="not ready yet"):
        asyncio.run(made.answers.rotator.cancel())


def healthy(course: Course) -> dict[str, status.Part]:
    return {service.unit: status.Part(status.State.HEALTHY) for service in course.wanted.all_services}
