# SPDX-License-Identifier: Apache-2.0
"""Three control planes, switched on together, become one cluster that does without any one of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from firstboot.codes import Code
from firstboot.report.status import Phase
from image.vm.fleet import PATIENT, address
from tests import members
from tests.node import JOIN_TOKEN

from . import states
from .clocks import TWO_HOURS, agrees, set_clock
from .cluster import Cluster, member
from .conftest import ReadyCopy
from .machine import Machine

NAMES = ("node-1", "node-2", "node-3")
VOTERS_SECONDS = 180.0
WITHOUT_ONE_SECONDS = 180.0
CLOCKS_SECONDS = 300.0


# Three machines at once take a small host longer than make test may: 22 minutes with two processors.
@pytest.mark.soak
@pytest.mark.parametrize("datastore", states.DATASTORES)
def test_three_control_planes_do_without_any_one(
    cluster: Cluster, founder: ReadyCopy, datastore: str
) -> None:
    first = founder(datastore)
    for number, name in enumerate(NAMES[1:], 2):
        cluster.add(member(name, number, joiner()))
    for machine in cluster:
        machine.wait_for_phase()
    for machine in cluster:
        machine.wait_until("all vote", partial(has_voters, machine, datastore, 3), VOTERS_SECONDS)
        assert machine.failed_units() == []
    assert {node["metadata"]["name"] for node in first.get("nodes")["items"]} == set(NAMES)
    for machine in cluster:
        note(machine, f"from-{machine.setup.name}")
    lost = leader(cluster, datastore)
    left = [machine for machine in cluster if machine is not lost]
    lost.power_cut()
    for machine in left:
        written = f"after-{machine.setup.name}"
        machine.wait_until("writes go on", partial(notes, machine, written), WITHOUT_ONE_SECONDS)
        assert {f"from-{name}" for name in NAMES} <= set(configmaps(machine))
    lost.start()
    lost.wait_for_boot()
    for machine in cluster:
        machine.wait_for_phase(Phase.READY)
    assert {f"after-{machine.setup.name}" for machine in left} <= set(configmaps(lost))
    goes_on_with_a_clock_that_is_wrong(cluster, datastore, lost)


def goes_on_with_a_clock_that_is_wrong(cluster: Cluster, datastore: str, wrong: Machine) -> None:
    """A control plane is two hours ahead: the others say so, and all of them write and stay Ready."""
    set_clock(wrong, ahead=TWO_HOURS)
    others = [machine for machine in cluster if machine is not wrong]
    for machine in others:
        machine.wait_until("it is told", partial(machine.tells, Code.CLOCKS_APART), CLOCKS_SECONDS)
    for machine in cluster:
        note(machine, f"apart-{machine.setup.name}")
        machine.wait_for_phase(Phase.READY)
        assert len(members.voters(machine, datastore)) == len(NAMES)
    set_clock(wrong)
    for machine in others:
        machine.wait_until("clocks agree", partial(agrees, machine), CLOCKS_SECONDS)


def joiner() -> dict[str, Any]:
    """Return the document of a further control plane; networks and datastore are the cluster's."""
    cluster = {"token": JOIN_TOKEN, "endpoints": [address(1)]}
    return {"version": 1, "role": "control-plane", "cluster": cluster, "services": PATIENT}


def note(machine: Machine, name: str) -> None:
    """Write an object by the API server of this machine."""
    machine.kubectl("create", "configmap", name)


def notes(machine: Machine, name: str) -> bool:
    """Whether an object can be written by the API server of this machine."""
    return machine.kubectl("create", "configmap", name, check=False).ok


def configmaps(machine: Machine) -> list[str]:
    """Return the names of all objects that were written."""
    return [item["metadata"]["name"] for item in machine.get("configmaps")["items"]]


def has_voters(machine: Machine, datastore: str, count: int) -> bool:
    """Whether the datastore of this machine knows that many voting members."""
    return len(members.voters(machine, datastore)) == count


def leader(cluster: Cluster, datastore: str) -> Machine:
    """Return the machine whose member leads."""
    for machine in cluster:
        if members.leader(machine, datastore) == members.own_address(machine):
            return machine
    raise AssertionError("nobody leads")
