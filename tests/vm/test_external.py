# SPDX-License-Identifier: Apache-2.0
"""A node whose datastore somebody else runs, here an etcd on the host: it waits for that, and gets over its end."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from firstboot.codes import Code
from firstboot.report.status import Phase, State
from image.vm.arguments import GuestForward, UserNetwork
from tests.torture.certificates import Authority
from tests.torture.programs import built_programs, component
from tests.torture.stores import SecureEtcd

from . import drives, states
from .conftest import Boot
from .documents import CONTROL_PLANE
from .machine import BOOT_SECONDS, FORWARDS, Machine, Setup

ETCD = "10.0.2.100"
"""Address behind which the machine finds the etcd, in the network of its card."""
PIPE_PROGRAM = Path(__file__).parent / "pipe.py"
NOTICED_SECONDS = 120.0
"""Until an emulated node has seen that its datastore is gone, or is there again."""


@pytest.fixture
def etcd() -> Iterator[SecureEtcd]:
    """An etcd on the host that does not run yet, with its data on a disk."""
    folder = Path(tempfile.mkdtemp(prefix="external-", dir="/var/tmp"))
    member = SecureEtcd(built_programs(), folder / "etcd", authority=Authority(folder, "etcd-ca"), host=ETCD)
    yield member
    member.kill()
    shutil.rmtree(folder)


def setup(etcd: SecureEtcd) -> Setup:
    """Return a machine whose document names the etcd; each of its connections has a process on the host."""
    assert etcd.authority
    client = etcd.authority.identity("127.0.0.1")
    external = {
        "endpoints": [f"https://{ETCD}:2379"],
        "ca": client.authority.read_text(),
        "client-certificate": client.certificate.read_text(),
        "client-key": client.key.read_text(),
    }
    command = f"/usr/bin/python3 -IS {PIPE_PROGRAM} 127.0.0.1 {etcd.port}"
    network = UserNetwork(FORWARDS, (GuestForward(ETCD, 2379, command),))
    document = {**CONTROL_PLANE, "datastore": {"type": "external", "external": external}}
    return Setup(document=document, extra=(drives.test_data(),), networks=(network,))


def test_a_node_waits_for_its_external_etcd_and_gets_over_its_end(boot: Boot, etcd: SecureEtcd) -> None:
    machine = boot(setup(etcd))
    missed = partial(misses, machine)
    machine.wait_until("the node says that the etcd is missing", missed, BOOT_SECONDS)
    assert stopped(machine, "kube-apiserver"), "no API server without its datastore"

    etcd.start()
    status = machine.wait_for_phase()
    assert status.components["datastore"].detail == f"etcd {component('etcd').version}, 1 of 1 endpoints"
    assert not {"etcd", "k8s-dqlite"} & set(status.components)
    assert stopped(machine, "etcd") and stopped(machine, "k8s-dqlite")
    states.furnish(machine)
    told = json.loads(machine.run("basalt datastore status --json").stdout)
    assert told["type"] == "external" and told["members"][0]["healthy"] and told["revision"] > 1
    refused = machine.run("basalt datastore defragment", check=False)
    assert refused.code == 1 and "somebody else runs" in refused.stderr

    etcd.stop()
    machine.wait_until("the node says that the etcd is gone", missed, NOTICED_SECONDS)
    status = machine.wait_for_phase(Phase.DEGRADED, NOTICED_SECONDS, failed_units=True)
    assert status.components["datastore"].state is State.DEGRADED
    assert "RUNNING" in machine.run("ctr -n k8s.io tasks list").stdout, "pods run on"

    etcd.start()
    machine.wait_for_phase(Phase.READY, failed_units=True)
    states.check_furniture(machine)
    assert machine.failed_units() == []


def misses(machine: Machine) -> bool:
    """Whether the status tells that the endpoint does not answer."""
    status = machine.status()
    found = status.failures if status else ()
    return any(each.code == Code.DATASTORE_UNREACHABLE and ETCD in each.found for each in found)


def stopped(machine: Machine, unit: str) -> bool:
    """Whether a service does not run."""
    return not machine.run(f"systemctl is-active -q {unit}.service", check=False).ok
