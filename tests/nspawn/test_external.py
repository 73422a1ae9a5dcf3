# SPDX-License-Identifier: Apache-2.0
"""Control planes whose datastore somebody else runs: they wait for it, get over its end, and follow new credentials."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from firstboot.codes import Code
from firstboot.report.status import Phase, State
from firstboot.sources import FILE
from image.vm.fleet import address
from image.vm.seed import document_text
from tests.node import JOIN_TOKEN
from tests.torture.certificates import Authority
from tests.torture.programs import built_programs, component
from tests.torture.stores import SecureEtcd

from .cluster import CONTROL_PLANES, JOINED_SECONDS, Cluster
from .container import Container

HOST = address(100)
FIRST, SECOND, _ = CONTROL_PLANES
NOTICED_SECONDS = 60.0
MEMBERSHIP = "/var/lib/basalt/membership.json"


@dataclass
class OutsideEtcd(SecureEtcd):
    """An etcd with an address of its own on the nodes' network; namespace: the one it runs in."""

    namespace: str = ""

    @property
    def endpoint(self) -> str:
        return f"https://{self.host}:2379"

    def argv(self) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *super().argv()]

    def section(self) -> dict[str, Any]:
        """Return `datastore` of a document, with a client certificate that is new each time."""
        assert self.authority
        client = self.authority.identity("127.0.0.1")
        external = {
            "endpoints": [self.endpoint],
            "ca": client.authority.read_text(),
            "client-certificate": client.certificate.read_text(),
            "client-key": client.key.read_text(),
        }
        return {"type": "external", "external": external}


@pytest.fixture
def etcd(external: Cluster) -> Iterator[OutsideEtcd]:
    """An etcd beside the nodes that does not run yet."""
    wire = external.wires.place("etcd", HOST)
    authority = Authority(external.folder, "etcd-ca")
    member = OutsideEtcd(
        built_programs(), external.folder / "etcd", authority=authority, host=HOST, namespace=wire.namespace
    )
    yield member
    member.kill()


def test_control_planes_on_an_etcd_of_somebody_else(external: Cluster, etcd: OutsideEtcd) -> None:
    founder = {
        "version": 1,
        "role": "control-plane",
        "cluster": {"token": JOIN_TOKEN, "bootstrap": True},
        "datastore": etcd.section(),
    }
    first = external.add(FIRST, founder)
    missed = partial(misses, first)
    first.wait_until("the node says that the etcd is missing", missed, JOINED_SECONDS)
    assert stopped(first, "kube-apiserver"), "no API server without its datastore"

    etcd.start()
    second = external.add(SECOND)
    for node in (first, second):
        status = node.wait_for_phase(Phase.READY, JOINED_SECONDS)
        assert status.components["datastore"].detail == f"etcd {component('etcd').version}, 1 of 1 endpoints"
        assert stopped(node, "etcd") and stopped(node, "k8s-dqlite")
        told = json.loads(node.run("basalt datastore status --json").stdout)
        assert told["type"] == "external" and told["members"][0]["healthy"] and told["revision"] > 1
    refused = first.run("basalt datastore defragment", check=False)
    assert refused.code == 1 and "somebody else runs" in refused.stderr

    etcd.stop()
    first.wait_until("the node says that the etcd is gone", missed, NOTICED_SECONDS)
    status = first.wait_for_phase(Phase.DEGRADED, NOTICED_SECONDS, failed_units=True)
    assert status.components["datastore"].state is State.DEGRADED
    etcd.start()
    for node in (first, second):
        node.wait_for_phase(Phase.READY, JOINED_SECONDS, failed_units=True)

    renewed = {**first.document, "datastore": etcd.section()}
    first.write(f"/{FILE}", document_text(renewed), mode="0600")
    second.wait_until("the other one is told of it", partial(knows, second, renewed), JOINED_SECONDS)
    second.wait_for_phase(Phase.READY, JOINED_SECONDS, failed_units=True)
    journal = first.run("journalctl --no-pager; basalt status --json; basalt plan --all").stdout
    assert "PRIVATE KEY" not in journal
    said = first.run(f"basalt remove-node {SECOND}", timeout=JOINED_SECONDS).stdout
    assert said.splitlines()[-1] == f"{SECOND} is out of the cluster: its name and address are free"


def misses(node: Container) -> bool:
    """Whether the status tells that the endpoint does not answer."""
    status = node.status()
    found = status.failures if status else ()
    return any(each.code == Code.DATASTORE_UNREACHABLE and HOST in each.found for each in found)


def stopped(node: Container, unit: str) -> bool:
    """Whether a service does not run."""
    return not node.run(f"systemctl is-active -q {unit}.service", check=False).ok


def knows(node: Container, document: dict[str, Any]) -> bool:
    """Whether a node that has joined keeps the credentials of another one's document."""
    kept = json.loads(node.run(f"cat {MEMBERSHIP}").stdout)
    wanted = document["datastore"]["external"]["client-certificate"]
    return bool(kept["external"]["client-certificate"].strip() == wanted.strip())
