# SPDX-License-Identifier: Apache-2.0
"""A cluster with a company's CA gets over a full disk, and over the loss of all its control planes by a backup."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from firstboot.codes import Code
from firstboot.report.status import Phase
from tests.node import DATASTORE_UNITS
from tests.unit.support_pki import Company

from .cluster import CONTROL_PLANES, GOES_ON_SECONDS, JOINED_SECONDS, WORKER, Cluster, document
from .conftest import DATASTORES
from .container import Container, Tree
from .host import empty
from .test_cluster import notes

FIRST, SECOND, THIRD = CONTROL_PLANES
SMALL = FIRST
"""The one whose disk fills up: the founder, which leads as long as nothing has happened."""
SMALL_MIB = 1024
ROOT = Company.make("Company Root", days=3650)
ISSUING = Company.make("Company Kubernetes CA", ROOT, days=3650, depth=0)
ROOT_FILE = "/run/company-root.crt"
CLIENT = "/etc/kubernetes/pki/kubelet-client"
PASSPHRASE, BACKUP = "/run/passphrase", "/var/tmp/cluster.backup"
FILL = """cd /var/lib
fallocate --length=$((($(stat --file-system --format=%a .) - 1024) * $(stat --file-system --format=%S .))) filler
# What is left is files and parts of blocks; the end of that is an error.
cat /dev/zero >> filler"""


@pytest.fixture(scope="module", params=DATASTORES)
def cluster(request: pytest.FixtureRequest, able: None, tree: Tree) -> Iterator[Cluster]:
    """Three control planes and a worker: the founder's document brings a CA below a company's root."""
    with empty(request.param, tree) as made:
        made.rooms = {SMALL: SMALL_MIB}
        for name in (WORKER, THIRD, SECOND):
            made.add(name)
        made.add(FIRST, {**document(FIRST, request.param), "certificates": ISSUING.document})
        made.wait_whole()
        yield made


def test_nodes_have_certificates_of_a_companys_authority(cluster: Cluster) -> None:
    """Who knows nothing but its root believes each control plane."""
    worker = cluster.nodes[WORKER]
    worker.write(ROOT_FILE, ROOT.pem)
    for node in cluster.control_planes:
        told = certificates(node)
        assert issuer(told["ca"]) == "Company Root" and issuer(told["apiserver"]) == "Company Kubernetes CA"
        options = (
            f"--server=https://{node.address}:6443",
            f"--certificate-authority={ROOT_FILE}",
            f"--client-certificate={CLIENT}.crt",
            f"--client-key={CLIENT}.key",
        )
        assert worker.run(["kubectl", *options, "get", "--raw=/readyz"]).stdout == "ok"
    told = certificates(worker)
    assert issuer(told["ca"]) == "Company Root" and issuer(told["kubelet"]) == "Company Kubernetes CA"
    assert worker.run("cat /etc/kubernetes/pki/ca.crt").stdout == ISSUING.pem


def test_a_disk_fills_up(cluster: Cluster) -> None:
    """The others go on without it; it says what is missing, and has everything when there is room again."""
    full = cluster.nodes[SMALL]
    others = cluster.others(full)
    with cluster.writing(full), cluster.writing(*others) as goes_on:
        full.run(FILL, check=False)
        full.wait_until(
            "it says that its disk is full", partial(tells, full, Code.DISK_FULL), GOES_ON_SECONDS
        )
        goes_on()
        # What ends now finds no room at its start either.
        full.run(f"systemctl kill --signal=KILL {DATASTORE_UNITS[cluster.datastore]}")
        goes_on()
        for node in others:
            node.wait_until("its API writes", partial(notes, node), GOES_ON_SECONDS)
        full.run("rm /var/lib/filler")
        full.wait_for_phase(Phase.READY, JOINED_SECONDS, failed_units=True)
        goes_on()
    cluster.wait_whole()
    cluster.verify()


def test_all_control_planes_are_lost_and_a_backup_brings_the_cluster_back(cluster: Cluster) -> None:
    """All is there that was acknowledged before a backup that was taken while others wrote; the worker stays."""
    with cluster.writing(*cluster.control_planes):
        pass
    before = list(cluster.journals)
    with cluster.writing(*cluster.control_planes) as goes_on:
        backup = back_up(cluster.nodes[THIRD])
        goes_on()
    cluster.verify()
    for name in CONTROL_PLANES:
        cluster.nodes.pop(name).discard()

    first = cluster.add(FIRST, document(FIRST, cluster.datastore))
    first.wait_for_phase(Phase.READY, JOINED_SECONDS, failed_units=True)
    restore(first, backup)
    first.wait_for_phase(Phase.READY, JOINED_SECONDS, failed_units=True)
    assert issuer(certificates(first)["ca"]) == "Company Root"
    first.kubectl("delete", "node", SECOND, THIRD)
    gone = (f"basalt-machine-{SECOND}", f"basalt-machine-{THIRD}")
    first.kubectl("--namespace=kube-system", "delete", "configmap", *gone)
    for name in (SECOND, THIRD):
        cluster.add(name)
    cluster.wait_whole()
    with cluster.writing(*cluster.control_planes):
        pass
    cluster.journals += before
    cluster.verify()


def certificates(node: Container) -> dict[str, Any]:
    """Return what a node tells of its certificates, by their names."""
    listed = json.loads(node.run("basalt certificates --json").stdout)["certificates"]
    return {each["name"]: each for each in listed}


def issuer(certificate: dict[str, Any]) -> str:
    """Return the common name of who has signed a certificate with which nothing is wrong."""
    assert certificate["problem"] is None, certificate
    return str(certificate["issuer"]).rpartition("CN=")[2]


def tells(node: Container, code: Code) -> bool:
    """Whether the node tells of a failure, with a remedy, and is not ready."""
    status = node.status()
    remedies = [each.remedy for each in status.failures if each.code == code] if status else []
    return status is not None and any(remedies) and not status.phase.ready


def back_up(node: Container) -> bytes:
    """Return a backup of the cluster, taken at a node."""
    node.write(PASSPHRASE, "correct horse battery\n", mode="0600")
    node.run(f"basalt datastore backup {BACKUP} --passphrase-file {PASSPHRASE}", timeout=JOINED_SECONDS)
    return node.run(["cat", BACKUP]).output


def restore(node: Container, backup: bytes) -> None:
    """Have a node become the cluster that a backup is of."""
    node.write(PASSPHRASE, "correct horse battery\n", mode="0600")
    node.write(BACKUP, backup, mode="0600")
    command = f"basalt datastore restore {BACKUP} --passphrase-file {PASSPHRASE} --yes"
    node.run(command, timeout=JOINED_SECONDS)
