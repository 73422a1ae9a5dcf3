# SPDX-License-Identifier: Apache-2.0
"""What a node goes through: killed services and loss of power. It is rebooted in test_local_storage.py."""

from __future__ import annotations

from functools import partial

import pytest

from firstboot.report.status import Phase
from tests.node import READY_SECONDS

from . import states
from .conftest import Boot, ReadyCopy
from .documents import control_plane
from .machine import Machine, Setup

RECOVERY_SECONDS = 480.0
"""From a killed service to Ready, everything that depends on it included."""

KILLED = {
    "dqlite": (
        ("basalt",),
        ("coredns", "flanneld", "kube-controller-manager", "kube-proxy", "kube-scheduler"),
        ("containerd", "kubelet"),
        ("k8s-dqlite",),
        ("kube-apiserver",),
    ),
    "etcd": (("etcd",),),
}
"""Services of a node with this datastore that are killed one right after the other, round by round."""


@pytest.mark.parametrize("datastore", ["dqlite", pytest.param("etcd", marks=pytest.mark.variant)])
def test_every_service_comes_back_after_kill_9(ready_copy: ReadyCopy, datastore: str) -> None:
    machine = ready_copy(datastore)
    for services in KILLED[datastore]:
        killed = {service: kill(machine, service) for service in services}
        for service, process in killed.items():
            machine.wait_until(
                f"{service} runs again", partial(runs_anew, machine, service, process), RECOVERY_SECONDS
            )
        machine.wait_for_phase(Phase.READY, timeout=RECOVERY_SECONDS, failed_units=True)
        assert machine.get("configmap", "kept")["data"] == states.KEPT, services
    states.check_furniture(machine)
    assert machine.failed_units() == []


def main_process(machine: Machine, service: str) -> int:
    """Return the main process of an active service, 0 for one that is not."""
    shown = machine.run(["systemctl", "show", "-p", "ActiveState", "-p", "MainPID", f"{service}.service"])
    facts = dict(line.split("=", 1) for line in shown.stdout.splitlines())
    return int(facts["MainPID"]) if facts["ActiveState"] == "active" else 0


def runs_anew(machine: Machine, service: str, killed: int) -> bool:
    """Whether the service has another main process than the one that was killed, and is active."""
    return main_process(machine, service) not in (0, killed)


def kill(machine: Machine, service: str) -> int:
    """Kill the main process of an active service and return its number."""
    process = main_process(machine, service)
    assert process, f"{service} is not active"
    machine.run(f"kill -9 {process}")
    return process


MOMENTS = {
    "the first key is there": "ls /etc/kubernetes/pki/*.key",
    "the datastore runs": "systemctl is-active -q k8s-dqlite.service || systemctl is-active -q etcd.service",
    "the apiserver answers": "kubectl --kubeconfig=/etc/kubernetes/admin.kubeconfig get --raw /livez",
}
"""When to cut the power during the first boot: what is so for the first time, as a shell condition."""


@pytest.mark.parametrize("datastore", ("dqlite", pytest.param("etcd", marks=pytest.mark.soak)))
def test_power_cuts_during_the_first_boot(boot: Boot, datastore: str) -> None:
    machine = boot(Setup(document=control_plane(datastore)))
    for moment, condition in MOMENTS.items():
        machine.wait_for_boot()
        machine.wait_until(moment, partial(holds, machine, condition), READY_SECONDS)
        machine.power_cut()
        machine.start()
    machine.wait_for_boot()
    machine.wait_for_phase(Phase.READY)
    assert machine.failed_units() == []
    [node] = machine.get("nodes")["items"]
    assert node["metadata"]["name"] == "node-1"


def holds(machine: Machine, condition: str) -> bool:
    """Whether a shell condition holds inside the machine."""
    return machine.run(condition, check=False).ok
