# SPDX-License-Identifier: Apache-2.0
"""The cluster's CA is replaced while a client reads and writes, whom nobody refuses until the old CA is forgotten."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from firstboot.report import status
from firstboot.report.status import Phase
from tests.unit.support_pki import Company

from .cluster import CONTROL_PLANES, GOES_ON_SECONDS, JOINED_SECONDS, WORKER, Cluster
from .container import Container

KUBECONFIG = "/root/outside.kubeconfig"
"""Of somebody outside: nobody renews it."""
NOTES = """
number=0
while true; do
    for address in {addresses}; do
        number=$((number + 1))
        outside="kubectl --kubeconfig={kubeconfig} --server=https://$address:6443 --request-timeout=30s"
        if $outside create configmap note-$number && test -n "$($outside get configmap note-$number -o name)"; then
            echo $number >>/root/notes.made
        else
            echo "$address: note-$number" >>/root/notes.failed
        fi
    done
done
"""
GIVEN, DAYS = "/root/ca.crt", 3650
TEST_SECONDS = 900
HELD_SECONDS = 360
"""For which a node waits until all its programs use their new certificates."""
API_SERVER = "systemctl show --value -p MainPID kube-apiserver"


def test_a_ca_that_another_one_signs(bare: Cluster) -> None:
    """Only a request leaves the node; what the company gives for it signs everything anew."""
    node = bare.add(CONTROL_PLANES[0])
    bare.wait_whole()
    asked = node.run("basalt certificates rotate-ca --request").stdout
    node.write(GIVEN, Company.signed(asked, Company.make("Company Root", days=DAYS), days=DAYS))
    said = node.run(f"basalt certificates rotate-ca --ca {GIVEN}", check=False)
    assert said.code == 2 and "vouches for the new one" in said.stderr, said
    node.run(f"basalt certificates rotate-ca --ca {GIVEN} --yes")
    node.wait_until("it has signed all", partial(signed_below, node, "CN=Company Root"), JOINED_SECONDS)
    assert not node.run("test -e /etc/kubernetes/pki/ca-requested.key", check=False).ok
    bare.wait_whole()
    node.write(KUBECONFIG, node.run("basalt kubeconfig").stdout, mode="0600")
    assert "node-1" in node.run(f"kubectl --kubeconfig={KUBECONFIG} get nodes").stdout


@pytest.mark.timeout(HELD_SECONDS + TEST_SECONDS)
def test_the_ca_is_replaced_and_nobody_is_refused(cluster: Cluster) -> None:
    """The worker is off when it begins, and is waited for."""
    cluster.wait_whole()
    first, second, _ = cluster.control_planes
    worker, before = cluster.nodes[WORKER], first.run("cat /etc/kubernetes/pki/ca.crt").stdout
    servers = {node.name: node.run(API_SERVER).stdout for node in cluster.control_planes}
    second.write(KUBECONFIG, first.run("basalt kubeconfig").stdout, mode="0600")
    second.write(
        "/root/notes.sh", NOTES.format(addresses=" ".join(addresses(cluster)), kubeconfig=KUBECONFIG)
    )
    second.run("systemd-run --quiet --unit=notes --setenv=HOME=/root sh /root/notes.sh")

    worker.kill()
    said = first.run("basalt certificates rotate-ca", check=False)
    assert said.code == 2 and "4 nodes" in said.stderr and rotation(first) is None
    first.run("basalt certificates rotate-ca --yes")
    for node in cluster.control_planes:
        node.wait_until("the worker is waited for", partial(waits, node, "trust", (WORKER,)), GOES_ON_SECONDS)
    goes_on(second)
    assert first.run("cat /etc/kubernetes/pki/ca-trusted.crt").stdout.count("BEGIN") == 2
    assert "rotation-refused" in first.run("basalt certificates rotate-ca --finish", check=False).stderr

    worker.start()
    for node in cluster.nodes.values():
        node.wait_until("the new CA has signed all", partial(signed_anew, node, before), JOINED_SECONDS)
    goes_on(second)
    cluster.wait_whole()
    refused = second.run("basalt certificates rotate-ca --finish", check=False)
    assert refused.code == 1 and "rotation-behind" in refused.stderr, "programs need some minutes"
    for node in cluster.control_planes:
        node.wait_until("all are through", partial(waits, node, "sign", ()), HELD_SECONDS + JOINED_SECONDS)
    goes_on(second)

    second.run("systemctl stop notes")
    assert second.run("cat /root/notes.failed", check=False).stdout == ""
    assert {node.name: node.run(API_SERVER).stdout for node in cluster.control_planes} == servers
    second.run("basalt certificates rotate-ca --finish")
    for node in cluster.nodes.values():
        node.wait_until("the old CA is forgotten", partial(forgotten, node, before), JOINED_SECONDS)
    for address in addresses(cluster):
        outside = f"kubectl --kubeconfig={KUBECONFIG} --server=https://{address}:6443 get namespaces"
        second.wait_until("the old CA is refused", partial(unauthorized, second, outside), GOES_ON_SECONDS)
    cluster.wait_whole()
    assert first.get("nodes")["items"], "administrators on the node have a new kubeconfig"
    bundle = partial(given_to_pods, second, second.run("cat /etc/kubernetes/pki/ca.crt").stdout)
    second.wait_until("pods are given the new CA alone", bundle, JOINED_SECONDS)


def signed_below(node: Container, root: str) -> bool:
    """Whether the CA is one that this root has signed, and has signed what the node has."""
    told = node.run("basalt certificates --json", check=False)
    if not told.ok:
        return False
    found = {each["name"]: each for each in json.loads(told.stdout)["certificates"]}
    signed = {
        found[name]["issuer"] for name in ("kubelet", "kubelet-client", "agent", "basalt-api", "apiserver")
    }
    return found["ca"]["issuer"] == root and signed == {found["ca"]["subject"]}


def addresses(cluster: Cluster) -> list[str]:
    """Return where the API servers are."""
    return [cluster.nodes[name].address for name in CONTROL_PLANES]


def rotation(node: Container) -> status.Rotation | None:
    """Return what the node's status says about a rotation."""
    found = node.status()
    return found.rotation if found else None


def waits(node: Container, stage: str, behind: tuple[str, ...]) -> bool:
    """Whether the rotation is in a stage in which these nodes are waited for, and no others."""
    found = rotation(node)
    return found is not None and (found.stage, found.behind) == (stage, behind)


def signed_anew(node: Container, old: str) -> bool:
    """Whether a CA signs that is not the old one, and everything the node has of it was signed by it."""
    told = node.run("basalt certificates --json", check=False)
    if not told.ok:
        return False
    answer: dict[str, Any] = json.loads(told.stdout)
    issuers = {each["name"]: each["issuer"] for each in answer["certificates"]}
    now = node.run("cat /etc/kubernetes/pki/ca.crt").stdout
    own = {issuers[name] for name in ("kubelet", "kubelet-client", "agent", "basalt-api", "kube-proxy")}
    return not now.startswith(old) and own == {issuers["ca"]}


def forgotten(node: Container, old: str) -> bool:
    """Whether nothing of the old CA is left, and no rotation is under way."""
    found = node.status()
    believed = node.run("cat /etc/kubernetes/pki/ca.crt /etc/kubernetes/pki/ca-trusted.crt").stdout
    return found is not None and found.rotation is None and old not in believed and found.phase is Phase.READY


def goes_on(node: Container) -> None:
    """Wait until ten more notes were made, and see that none was refused."""
    goal = notes(node) + 10
    node.wait_until("notes are made", lambda: notes(node) >= goal, GOES_ON_SECONDS * 2)
    failed = node.run(
        "cat /root/notes.failed; journalctl --no-pager --unit=notes --lines=20", check=False
    ).stdout
    assert node.run("test -e /root/notes.failed", check=False).code == 1, failed


def notes(node: Container) -> int:
    """Return how many notes were made."""
    return len(node.run("cat /root/notes.made", check=False).stdout.splitlines())


def unauthorized(node: Container, command: str) -> bool:
    """Whether the API server does not know who asks."""
    told = node.run(command, check=False)
    return not told.ok and "Unauthorized" in told.stderr


def given_to_pods(node: Container, pem: str) -> bool:
    """Whether the bundle of a namespace is this one."""
    found: dict[str, Any] = node.get("configmap", "kube-root-ca.crt")
    return bool(found["data"]["ca.crt"] == pem)
