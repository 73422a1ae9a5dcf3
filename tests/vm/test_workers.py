# SPDX-License-Identifier: Apache-2.0
"""A control plane and a worker, switched on together, become a cluster and stay one."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from functools import partial
from typing import Any

from firstboot.codes import Code
from firstboot.report.status import Phase, Status
from firstboot.sources import FILE
from image.vm.fleet import address
from image.vm.seed import document_text
from tests.node import READY_SECONDS

from . import drives, pods, states
from .cluster import Cluster, member
from .conftest import ReadyCopy
from .machine import Machine

WRONG = "another-text-than-the-cluster's-fedcba9876543210"
NOTICED_SECONDS = 120.0
REMOVED_SECONDS = 600.0
TWO_HOURS = 7200


def test_a_worker_joins_and_its_pods_outlive_the_control_plane(cluster: Cluster, founder: ReadyCopy) -> None:
    first = founder("dqlite")
    cluster.switch.divide(["node-1"], ["w-1"])
    second = cluster.add(member("w-1", 2, worker(WRONG), memory=2048))
    waits_for_the_cluster(second)
    cluster.switch.heal()
    is_refused_on_both_sides(first, second)
    set_clock(second, ahead=TWO_HOURS)
    token = first.run("basalt get-join-token --role worker --lifetime 30m").stdout.strip()
    second.write(FILE, document_text({**worker(token), "node": {"name": "w-1", "ip": address(2)}}))
    waits_for_its_clock(second)
    set_clock(second)
    second.wait_for_phase()
    nodes = {node["metadata"]["name"]: node for node in first.get("nodes")["items"]}
    assert sorted(nodes) == ["node-1", "w-1"]
    assert nodes["w-1"]["spec"]["podCIDR"] != nodes["node-1"]["spec"]["podCIDR"]
    assert [second.failed_units(), first.failed_units()] == [[], []]
    pods_talk_across_nodes(first, second)
    clocks_are_apart_in_a_cluster_that_works(first, second)
    keeps_its_pod_without_a_control_plane(first, second)
    leaves_and_knows_nothing_any_more(first, second)


def worker(token: str) -> dict[str, Any]:
    """Return the document of a worker."""
    return {"version": 1, "role": "worker", "cluster": {"token": token, "endpoints": [address(1)]}}


def waits_for_the_cluster(machine: Machine) -> None:
    """The worker, which is up first, says what it waits for."""
    machine.wait_until(
        "nobody is there to join", partial(says, machine, Code.CLUSTER_UNREACHABLE), READY_SECONDS
    )
    status = machine.status()
    assert status and status.phase is Phase.JOINING
    assert address(1) in status.failures[0].found


def is_refused_on_both_sides(first: Machine, second: Machine) -> None:
    """A wrong token is told on the machine and on the control plane, which stays Ready."""
    second.wait_until("it is refused", partial(says, second, Code.TOKEN_UNKNOWN), NOTICED_SECONDS)
    first.wait_until("the refusal is told", partial(says, first, Code.JOIN_REFUSED), NOTICED_SECONDS)
    status = first.status()
    assert status and status.phase is Phase.READY
    assert WRONG not in json.dumps(status.to_dict())


def set_clock(machine: Machine, ahead: int = 0) -> None:
    """Set a machine's clock to that of the host, or ahead of it by some seconds."""
    machine.run(f"date --utc --set=@{time.time() + ahead:.3f}")


def waits_for_its_clock(machine: Machine) -> None:
    """With a good token and a wrong clock the worker is no member yet, and says by how much it is wrong."""
    machine.wait_until("its clock is told", partial(says, machine, Code.CLOCKS_APART), NOTICED_SECONDS)
    status = machine.status()
    assert status and status.phase is Phase.JOINING
    [failure] = status.failures
    seconds = re.search(rf"(\d+) seconds ahead of that of {re.escape(address(1))}", failure.found)
    assert seconds and abs(int(seconds[1]) - TWO_HOURS) < 60, failure.found


def clocks_are_apart_in_a_cluster_that_works(first: Machine, second: Machine) -> None:
    """A worker two hours ahead: its heartbeats come from the future, it stays Ready, and its pod is reached."""
    before = containers(second)
    set_clock(second, ahead=TWO_HOURS)
    first.wait_until("heartbeats have the wrong time", partial(beats_ahead, first), NOTICED_SECONDS)
    [node] = [each for each in first.get("nodes")["items"] if each["metadata"]["name"] == "w-1"]
    assert {each["type"]: each["status"] for each in node["status"]["conditions"]}["Ready"] == "True"
    assert containers(second) == before
    pods.wait_answers(first, "w-1")
    set_clock(second)


def beats_ahead(machine: Machine) -> bool:
    """Whether the last heartbeat of the worker has a time more than an hour from now."""
    renewed = machine.get("lease", "w-1", "-n", "kube-node-lease")["spec"]["renewTime"]
    return datetime.fromisoformat(renewed).timestamp() > time.time() + TWO_HOURS / 2


def says(machine: Machine, code: Code) -> bool:
    """Whether the status has a failure of this kind."""
    status: Status | None = machine.status()
    return status is not None and code in [failure.code for failure in status.failures]


def pods_talk_across_nodes(first: Machine, second: Machine) -> None:
    """A pod on the worker finds names and the API, and the pod of the other node fetches from it."""
    drives.import_pod_image(second)
    pods.start(first, "w-1", node="w-1")
    assert pods.ask(first, "dns", "kubernetes.default", name="w-1")["addresses"] == [states.API_SERVICE]
    url = "https://kubernetes.default.svc/version"
    assert pods.ask(first, "fetch", "-cluster", url, name="w-1")["status"] == 200
    [there] = pods.addresses(first, "w-1")
    answer = pods.ask(first, "fetch", f"http://{there}:8080/hostname", name="probe")
    assert answer["status"] == 200 and "w-1" in answer["body"]


def keeps_its_pod_without_a_control_plane(first: Machine, second: Machine) -> None:
    """The control plane loses its power: the worker says so and its pod goes on; later all is well by itself."""
    before = containers(second)
    first.power_cut()
    second.wait_until("the loss is told", partial(is_degraded, second), NOTICED_SECONDS)
    assert containers(second) == before
    first.start()
    first.wait_for_boot()
    first.wait_for_phase()
    second.wait_for_phase()
    assert containers(second) == before
    pods.wait_answers(first, "w-1")


def containers(machine: Machine) -> list[str]:
    """Return the running containers of a node with their processes."""
    lines = machine.run("ctr -n k8s.io tasks ls").stdout.splitlines()[1:]
    return sorted(line for line in lines if "RUNNING" in line)


def is_degraded(machine: Machine) -> bool:
    """Whether the node says that something which worked does not work now."""
    status = machine.status()
    return status is not None and status.phase is Phase.DEGRADED


def leaves_and_knows_nothing_any_more(first: Machine, second: Machine) -> None:
    """The worker is drained and forgotten, switches itself off, and starts as it was flashed."""
    said = first.run("basalt remove-node w-1 --timeout 5m", timeout=REMOVED_SECONDS).stdout
    assert said.splitlines()[-1] == "w-1 is out of the cluster: its name and address are free"
    second.wait_for_power_off()
    assert [node["metadata"]["name"] for node in first.get("nodes")["items"]] == ["node-1"]
    status = first.status()
    assert status and status.phase is Phase.READY
    second.start()
    # The token that let it in was a file on its disk; what it was booted with has the wrong one.
    second.wait_until("it is new again", partial(says, second, Code.TOKEN_UNKNOWN), READY_SECONDS)
    assert second.run("test -e /var/lib/basalt/membership.json", check=False).code == 1
