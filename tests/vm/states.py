# SPDX-License-Identifier: Apache-2.0
"""The Ready machines that tests start from, one for each datastore, and how to see that they are whole.

That with etcd is in a network without a way out.
"""

from __future__ import annotations

import json

from image import host
from image.vm import administration
from image.vm.seed import user_data

from . import drives, pods
from .documents import control_plane
from .machine import Machine, Setup

DATASTORES = ("dqlite", "etcd")
API_SERVICE = "10.152.183.1"
"""The first address of the default service network."""
KEPT = {"word": "acknowledged"}


NO_WAY_OUT = {
    "version": 2,
    "ethernets": {"lan": {"match": {"name": "e*"}, "addresses": ["10.0.2.15/24"], "dhcp4": False}},
}
"""Network of a machine with an address and nothing else: no default route, no name server, no DHCP."""
NETWORKS = {"dqlite": None, "etcd": NO_WAY_OUT}


def administrator() -> administration.Credentials:
    """Return the certificate that may administer the Ready machines; made once, for their documents name its CA."""
    with host.locked("administrator"):
        return administration.make_credentials(host.cache() / "vm" / "administrator")


def setup(datastore: str) -> Setup:
    """Return a control plane with the disk of test data."""
    access = {"client-ca": administrator().authority.read_text()}
    text, network = user_data(control_plane(datastore, access=access)), NETWORKS[datastore]
    seed = drives.NoCloud(text, network=json.dumps(network) if network else None)
    return Setup(extra=(drives.test_data(), seed))


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
