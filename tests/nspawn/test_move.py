# SPDX-License-Identifier: Apache-2.0
"""The datastore of a cluster is moved to the other kind and back while it is written to, and nothing is missing."""

from __future__ import annotations

import json
from functools import partial

import pytest

from firstboot.codes import Code
from firstboot.report.status import Phase

from .cluster import CONTROL_PLANES, GOES_ON_SECONDS, JOINED_SECONDS, WORKER, Cluster
from .container import Container
from .test_cluster import notes

OTHER = {"dqlite": "etcd", "etcd": "dqlite"}


def test_one_control_plane_there_and_back(bare: Cluster) -> None:
    node = bare.add(CONTROL_PLANES[0])
    bare.wait_whole()
    told = node.run("basalt datastore move etcd", check=False, timeout=GOES_ON_SECONDS * 2)
    assert told.code == 2 and told.stdout.startswith("from dqlite to etcd: "), told
    assert node.run("systemctl is-active k8s-dqlite").ok, "nothing has been done"
    before = uids(node)
    for _ in range(2):
        moves(bare, node)
    assert uids(node).items() >= before.items(), "the same objects"
    refused = node.run("basalt datastore move dqlite --yes", check=False)
    assert refused.code == 1 and "dqlite already" in refused.stderr, refused


@pytest.mark.parametrize("cluster", ["dqlite"], indirect=True)
def test_three_control_planes_there_and_back(cluster: Cluster) -> None:
    cluster.wait_whole()
    before = uids(cluster.nodes[CONTROL_PLANES[0]])
    for node in cluster.others(cluster.leader()):
        moves(cluster, node)
        for each in cluster.control_planes:
            each.wait_until("its API writes", partial(notes, each), GOES_ON_SECONDS)
    assert uids(cluster.nodes[CONTROL_PLANES[0]]).items() >= before.items(), "the same objects"
    worker = cluster.nodes[WORKER].status()
    assert worker is not None and worker.settings is not None and worker.settings.version >= 3, (
        "it has followed"
    )


@pytest.mark.parametrize("cluster", ["dqlite"], indirect=True)
def test_who_moves_it_is_killed(cluster: Cluster) -> None:
    """Before it has decided or after: all have one datastore, with all that was acknowledged."""
    for decided in (False, True):
        cluster.wait_whole()
        node, to = cluster.control_planes[1], OTHER[cluster.datastore]
        with cluster.writing(*cluster.control_planes):
            if decided:
                node.run(f"basalt datastore move {to} --yes", timeout=JOINED_SECONDS)
            else:
                node.run(f"systemd-run --no-block basalt datastore move {to} --yes")
                first = cluster.control_planes[0]
                first.wait_until("it rests", partial(is_told, first), GOES_ON_SECONDS)
            node.kill()
            node.start()
        node.wait_for_phase(Phase.READY, JOINED_SECONDS)
        found = json.loads(node.run("basalt datastore status --json").stdout)["type"]
        assert found == to or not decided
        cluster.datastore = found
        cluster.wait_whole()
        cluster.verify()
        forget(cluster)


def moves(cluster: Cluster, node: Container) -> None:
    """Have a node move the datastore while all are written to, and look for what was acknowledged."""
    to = OTHER[cluster.datastore]
    with cluster.writing(*cluster.control_planes):
        node.run(f"basalt datastore move {to} --yes", timeout=JOINED_SECONDS)
    cluster.datastore = to
    cluster.wait_whole()
    cluster.verify()
    for each in cluster.nodes.values():
        status = each.status()
        assert status is not None and status.failures == (), (each.name, status)
    forget(cluster)
    with cluster.writing(*cluster.control_planes):
        pass
    cluster.verify()


def forget(cluster: Cluster) -> None:
    """Remove the old data, where there is some."""
    for each in cluster.control_planes:
        each.run("basalt datastore move --forget", check=False)
        assert not each.run("ls -d /var/lib/.*.moved", check=False).ok


def uids(node: Container) -> dict[str, str]:
    """Return the objects of the cluster's own namespace by name."""
    found = node.get("configmaps,serviceaccounts,secrets", "--namespace=kube-system")["items"]
    return {f"{each['kind']}/{each['metadata']['name']}": each["metadata"]["uid"] for each in found}


def is_told(node: Container) -> bool:
    """Whether the node says that its datastore is being moved."""
    status = node.status()
    return status is not None and Code.DATASTORE_MOVES in [each.code for each in status.failures]
