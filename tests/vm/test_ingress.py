# SPDX-License-Identifier: Apache-2.0
"""A pod is reached by its name over HTTP, through an Ingress and through a Gateway."""

from __future__ import annotations

from functools import partial

from firstboot.report.status import Phase
from tests.objects import service

from . import states
from .machine import Machine
from .objects import SERVED_SECONDS, answers, create, route_to


def test_a_pod_is_reached_by_its_name(ready_machine: Machine) -> None:
    machine = ready_machine
    machine.run("basalt enable ingress gateway")
    create(machine, service("probe", "probe"))
    machine.kubectl("create", "ingress", "probe", "--rule=ingress.example.org/*=probe:80")
    machine.wait_until("the Ingress serves", partial(serves, machine, "ingress.example.org"), SERVED_SECONDS)

    route_to(machine, "probe", "gateway.example.org")
    machine.wait_until("the Gateway serves", partial(serves, machine, "gateway.example.org"), SERVED_SECONDS)

    status = machine.wait_for_phase(Phase.READY)
    assert (status.features["ingress"].state, status.features["gateway"].state) == ("healthy", "healthy")
    told = machine.get("ingress", "probe")["status"]["loadBalancer"]["ingress"]
    assert [each["ip"] for each in told] == [node_address(machine)]
    states.check_furniture(machine)
    assert machine.failed_units() == []


def serves(machine: Machine, host: str) -> bool:
    """Whether the pod answers by that name at the node's address."""
    found = answers(machine, f"http://{node_address(machine)}/hostname", host=host)
    return bool(found) and found[0].startswith("probe-")


def node_address(machine: Machine) -> str:
    """Return the address that other machines know the node by."""
    addresses = machine.get("node", "node-1")["status"]["addresses"]
    return next(str(each["address"]) for each in addresses if each["type"] == "InternalIP")
