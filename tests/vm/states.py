# SPDX-License-Identifier: Apache-2.0
"""The Ready machines that tests start from, one for each datastore, and how to see that they are whole.

Each is a control plane called node-1 that others can join. That with etcd is in a network without a way out.
"""

from __future__ import annotations

from image import host
from image.vm import administration
from image.vm.fleet import PATIENT
from tests.node import JOIN_TOKEN

from . import drives, pods
from .cluster import member
from .documents import control_plane
from .machine import Machine, Setup

DATASTORES = ("dqlite", "etcd")
API_SERVICE = "10.152.183.1"
"""The first address of the default service network."""
KEPT = {"word": "acknowledged"}
WAY_OUT = {"dqlite": True, "etcd": False}
"""Whether the Ready machine has a default route and a name server, or an address and nothing else."""


def administrator() -> administration.Credentials:
    """Return the certificate that may administer the Ready machines; made once, for their documents name its CA."""
    with host.locked("administrator"):
        return administration.make_credentials(host.cache() / "vm" / "administrator")


def setup(datastore: str) -> Setup:
    """Return a control plane that others can join, with the disk of test data."""
    document = control_plane(
        datastore,
        access={"client-ca": administrator().authority.read_text()},
        cluster={"bootstrap": True, "token": JOIN_TOKEN},
        services=PATIENT,
    )
    return member("node-1", 1, document, way_out=WAY_OUT[datastore])


def furnish(machine: Machine) -> None:
    """Give a Ready machine, whose cluster has to be empty, a pod `probe` and an object `kept`."""
    found = machine.get("pods", "-A")["items"]
    assert found == [], f"a new cluster has pods: {found}"
    drives.import_pod_image(machine)
    pods.start(machine)
    machine.kubectl("create", "configmap", "kept", *(f"--from-literal={k}={v}" for k, v in KEPT.items()))


def check_furniture(machine: Machine) -> None:
    """Prove that nothing acknowledged was lost, and that the pod runs and finds the API by its name."""
    assert machine.get("configmap", "kept")["data"] == KEPT
    pods.wait_answers(machine)
    answer = pods.ask(machine, "dns", "kubernetes.default.svc.cluster.local")
    assert answer.get("addresses") == [API_SERVICE], answer
