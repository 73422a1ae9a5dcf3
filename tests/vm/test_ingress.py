# SPDX-License-Identifier: Apache-2.0
"""A pod is reached by its name over HTTP, through an Ingress and through a Gateway."""

from __future__ import annotations

import json
from functools import partial

from firstboot.report.status import Phase

from . import states
from .machine import Machine

SERVED_SECONDS = 300.0
"""From the switch to the first good answer, under emulation."""
FETCH = """\
import urllib.request as u
print(u.urlopen(u.Request("http://{address}/hostname", headers={{"Host": "{host}"}}), timeout=10).read().decode())
"""


def test_a_pod_is_reached_by_its_name(ready_machine: Machine) -> None:
    machine = ready_machine
    machine.run("basalt enable ingress gateway")
    machine.kubectl("expose", "deployment/probe", "--port=80", "--target-port=8080")
    machine.kubectl("create", "ingress", "probe", "--rule=ingress.example.org/*=probe:80")
    machine.wait_until("the Ingress serves", partial(serves, machine, "ingress.example.org"), SERVED_SECONDS)

    gateway = {"gatewayClassName": "basalt", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}
    rules = [{"backendRefs": [{"name": "probe", "port": 80}]}]
    route = {"parentRefs": [{"name": "edge"}], "hostnames": ["gateway.example.org"], "rules": rules}
    for kind, name, spec in (("Gateway", "edge", gateway), ("HTTPRoute", "probe", route)):
        described = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        }
        machine.wait_until(
            f"{kind} is taken", partial(is_taken, machine, json.dumps(described)), SERVED_SECONDS
        )
    machine.wait_until("the Gateway serves", partial(serves, machine, "gateway.example.org"), SERVED_SECONDS)

    status = machine.wait_for_phase(Phase.READY)
    assert (status.features["ingress"].state, status.features["gateway"].state) == ("healthy", "healthy")
    told = machine.get("ingress", "probe")["status"]["loadBalancer"]["ingress"]
    assert [each["ip"] for each in told] == [node_address(machine)]
    states.check_furniture(machine)
    assert machine.failed_units() == []


def is_taken(machine: Machine, text: str) -> bool:
    """Whether the API server takes the object, whose kind it may not know yet."""
    return machine.kubectl("apply", "-f", "-", stdin=text, check=False).ok


def serves(machine: Machine, host: str) -> bool:
    """Whether the pod answers by that name at the node's address."""
    program = FETCH.format(address=node_address(machine), host=host)
    return "probe" in machine.run(["python3", "-c", program], check=False).stdout


def node_address(machine: Machine) -> str:
    """Return the address that other machines know the node by."""
    addresses = machine.get("node", "node-1")["status"]["addresses"]
    return next(str(each["address"]) for each in addresses if each["type"] == "InternalIP")
