# SPDX-License-Identifier: Apache-2.0
"""One of three control planes carries the API's virtual address; another one does when that is not ready, or dies."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from firstboot.report.status import Phase
from image import components, declaration
from image.vm.fleet import address
from tests.node import JOIN_TOKEN, POLL_SECONDS, NodeFailed

from .cluster import CONTROL_PLANES, GOES_ON_SECONDS, JOINED_SECONDS, Cluster
from .container import Container, Tree
from .host import empty

FIRST, *OTHERS = CONTROL_PLANES
VIRTUAL, ELSEWHERE, CLIENT = address(100), address(101), address(102)
MOVED_SECONDS = 20.0
"""Most that clients may have to do without the address, on a busy host."""
STEADY_SECONDS = 10.0
"""For how long an address that has moved has to stay where it is."""


@dataclass(frozen=True)
class Client:
    """Somebody on the nodes' network who knows nothing but a kubeconfig."""

    namespace: str
    kubectl: Path
    kubeconfig: Path

    def writes(self) -> bool:
        """Whether an object can be written now."""
        name = f"note-{uuid.uuid4().hex[:8]}"
        kubectl = (self.kubectl, f"--kubeconfig={self.kubeconfig}", "--request-timeout=2s")
        entered = ["ip", "netns", "exec", self.namespace, *map(str, kubectl), "create", "configmap", name]
        environment = {**os.environ, "HOME": str(self.kubeconfig.parent)}
        return subprocess.run(entered, capture_output=True, timeout=60, env=environment).returncode == 0

    def outage(self, since: float) -> float:
        """Return the seconds until the next write succeeds."""
        while not self.writes():
            if time.monotonic() - since > GOES_ON_SECONDS:
                raise NodeFailed(f"nothing can be written through {VIRTUAL}")
        return time.monotonic() - since


@pytest.fixture
def cluster(able: None, tree: Tree) -> Iterator[Cluster]:
    """A cluster without a node."""
    with empty("dqlite", tree) as made:
        yield made


def document(number: int, **more: Any) -> dict[str, Any]:
    """Return the document of a control plane in a zone of its own."""
    labels = {"topology.kubernetes.io/zone": f"rack-{number}"}
    return {"version": 1, "role": "control-plane", "node": {"labels": labels}, **more}


def test_an_address_that_is_carried_by_one_and_taken_over(cluster: Cluster) -> None:
    founds = {"token": JOIN_TOKEN, "bootstrap": True, "virtual-address": VIRTUAL}
    first = cluster.add(FIRST, document(1, cluster=founds))
    first.wait_for_phase(Phase.READY, JOINED_SECONDS)
    assert cluster.carriers(VIRTUAL) == [first], "it carries the address before there is anybody else"
    client = a_client(cluster, first)
    client.outage(time.monotonic())

    # All that they know of the cluster is the address.
    for number, name in enumerate(OTHERS, 2):
        cluster.add(name, document(number, cluster={"token": JOIN_TOKEN, "endpoints": [VIRTUAL]}))
    cluster.wait_whole()
    assert cluster.carriers(VIRTUAL) == [first], "whoever comes leaves it where it is"
    assert [taken_over(node) for node in cluster.control_planes] == [1, 0, 0], "not even for a moment"
    for node in cluster.control_planes:
        node.wait_until("its status tells", partial(tells, node, first), GOES_ON_SECONDS)
    told = json.loads(first.run("basalt datastore status --json").stdout)
    assert sorted(each["zone"] for each in told["members"]) == ["rack-1", "rack-2", "rack-3"]
    assert told["critical_zones"] == []

    begin = time.monotonic()
    first.run("systemctl kill --signal=STOP kube-apiserver")
    gone = client.outage(begin)
    second = only_carrier(cluster)
    first.run("systemctl kill --signal=CONT kube-apiserver")
    print(f"\nAPI server frozen: {second.name} answers after {gone:.1f} s")
    assert second is not first and gone < MOVED_SECONDS
    cluster.wait_whole()
    assert stays(cluster, second)

    begin = time.monotonic()
    cluster.power_cut(second)
    gone = client.outage(begin)
    third = only_carrier(cluster)
    print(f"carrier killed: {third.name} answers after {gone:.1f} s")
    assert third is not second and gone < MOVED_SECONDS
    before = taken_over(third)
    second.start()
    cluster.wait_whole()
    assert stays(cluster, third) and taken_over(third) == before, "who comes back takes nothing from anybody"

    first.run(f"basalt set cluster.virtual-address={ELSEWHERE}")
    first.wait_until(
        "one carries the new address", partial(are_carriers, cluster, 1, ELSEWHERE), GOES_ON_SECONDS
    )
    # Each control plane follows when it notices; who carried the old one may be the last.
    first.wait_until(
        "nobody carries the old one", partial(are_carriers, cluster, 0, VIRTUAL), GOES_ON_SECONDS
    )
    refused = first.run(f"basalt set cluster.virtual-address={first.address}", check=False)
    assert refused.code == 2, refused
    first.run("basalt set cluster.virtual-address=")
    first.wait_until("nobody carries it", partial(are_carriers, cluster, 0, ELSEWHERE), GOES_ON_SECONDS)
    cluster.wait_whole()


def a_client(cluster: Cluster, node: Container) -> Client:
    """Return one with the kubeconfig that a node gives out, which has to name the address."""
    kubeconfig = node.run("basalt kubeconfig").stdout
    assert f"server: https://{VIRTUAL}:6443" in kubeconfig.replace('"', "")
    path = cluster.folder / "kubeconfig"
    path.write_text(kubeconfig)
    tree = components.build(declaration.load("kubernetes")).tree
    assert tree is not None
    return Client(cluster.wires.place("client", CLIENT).namespace, tree / "usr/bin/kubectl", path)


def are_carriers(cluster: Cluster, count: int, virtual: str) -> bool:
    """Whether so many carry an address now."""
    return len(cluster.carriers(virtual)) == count


def only_carrier(cluster: Cluster) -> Container:
    """Return the one who carries it."""
    found = cluster.carriers(VIRTUAL)
    assert len(found) == 1, [node.name for node in found]
    return found[0]


def stays(cluster: Cluster, node: Container) -> bool:
    """Whether this one and nobody else has the address for a while."""
    end = time.monotonic() + STEADY_SECONDS
    while time.monotonic() < end:
        if cluster.carriers(VIRTUAL) != [node]:
            return False
        time.sleep(POLL_SECONDS)
    return True


def taken_over(node: Container) -> int:
    """Return how often a node has begun to carry the address since it was switched on."""
    journal = node.run("journalctl --no-pager -b -o cat -u virtual-address.service").stdout
    return journal.count("Entering MASTER STATE")


def tells(node: Container, carrier: Container) -> bool:
    """Whether the node's status says who carries the address."""
    status = node.status()
    who = "this node" if node is carrier else carrier.name
    part = status.components.get("virtual-address") if status else None
    return part is not None and part.detail == f"{VIRTUAL} is carried by {who}"
