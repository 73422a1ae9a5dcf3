# SPDX-License-Identifier: Apache-2.0
"""A cluster of three control planes and a worker goes on when machines die, and loses nothing it acknowledged."""

from __future__ import annotations

import json
import uuid
from functools import partial

from firstboot.codes import Code
from firstboot.report.status import Phase
from tests.node import DATASTORE_UNITS

from .cluster import CONTROL_PLANES, GOES_ON_SECONDS, JOINED_SECONDS, WORKER, Cluster
from .container import Container


def test_machines_become_a_cluster(cluster: Cluster) -> None:
    """The worker and two control planes were there before the one they join."""
    cluster.wait_whole()
    names = {node["metadata"]["name"] for node in cluster.nodes[CONTROL_PLANES[0]].get("nodes")["items"]}
    assert names == {*CONTROL_PLANES, WORKER}
    for node in cluster.nodes.values():
        assert node.failed_units() == [], node.name


def test_the_leader_is_killed(cluster: Cluster) -> None:
    leader = cluster.leader()
    with cluster.writing(*cluster.others(leader)) as goes_on:
        leader.kill()
        goes_on()
        for node in cluster.others(leader):
            node.wait_until("its API writes", partial(notes, node), GOES_ON_SECONDS)
        # The worker's way to the API leads around the one that is lost.
        cluster.nodes[WORKER].wait_for_phase(Phase.READY, GOES_ON_SECONDS)
        leader.start()
        goes_on()
    cluster.wait_whole()
    cluster.verify()


def test_the_leader_is_cut_off(cluster: Cluster) -> None:
    """Alone it acknowledges nothing; when the network is whole again it has what the others wrote."""
    leader = cluster.leader()
    majority = cluster.others(leader)
    with cluster.writing(leader, *majority):
        cluster.wires.divide([leader.name], [*(node.name for node in majority), WORKER])
        with cluster.writing(*majority):
            assert not notes(leader)
    cluster.wires.heal()
    cluster.wait_whole()
    cluster.verify()


def test_all_are_killed_at_once(cluster: Cluster) -> None:
    nodes = cluster.control_planes
    with cluster.writing(*nodes):
        for node in nodes:
            node.kill()
    for node in nodes:
        node.start()
    cluster.wait_whole()
    cluster.verify()


def test_one_after_the_other_is_restarted(cluster: Cluster) -> None:
    for node in cluster.control_planes:
        with cluster.writing(*cluster.others(node)) as goes_on:
            node.shutdown()
            goes_on()
            node.start()
            goes_on()
        cluster.wait_whole()
    cluster.verify()


def test_one_is_lost_and_replaced_while_the_leader_dies(cluster: Cluster) -> None:
    """A new machine takes name and address of the lost one; its joining waits until a majority is there again."""
    leader = cluster.leader()
    lost, stays = cluster.others(leader)
    lost.kill()
    said = stays.run(f"basalt remove-node {lost.name} --force", timeout=GOES_ON_SECONDS * 3).stdout
    assert said.splitlines()[-1] == f"{lost.name} is out of the cluster: its name and address are free"
    new = cluster.add(lost.name)
    new.wait_until("it joins", partial(joins, new), JOINED_SECONDS)
    leader.kill()
    leader.start()
    cluster.wait_whole()
    with cluster.writing(new, stays):
        pass
    cluster.verify()


def test_all_nodes_follow_a_setting(cluster: Cluster) -> None:
    """Made at one control plane and taken back at another; what a cluster has for life is refused."""
    maker, other = cluster.nodes[CONTROL_PLANES[0]], cluster.nodes[CONTROL_PLANES[1]]
    before = follows(maker)
    maker.run("basalt set features.dns.upstream-nameservers='[192.0.2.53]'")
    for node in cluster.nodes.values():
        node.wait_until("the version is followed", partial(has_followed, node, before + 1), GOES_ON_SECONDS)
        assert "192.0.2.53" in node.run("cat /etc/kubernetes/Corefile").stdout
    refused = other.run("basalt set cluster.pod-cidr=10.9.0.0/16", check=False)
    assert refused.code == 2 and "fixed-setting" in refused.stderr
    other.run(f"basalt set --revert {before}")
    for node in cluster.nodes.values():
        node.wait_until("the old one is back", partial(has_followed, node, before + 2), GOES_ON_SECONDS)
        assert "192.0.2.53" not in node.run("cat /etc/kubernetes/Corefile").stdout
    cluster.wait_whole()


def test_a_feature_is_switched_on_and_off_for_all(cluster: Cluster) -> None:
    """Each API server asks the metrics server of its own machine; switched off, nothing remains of it.

    A container knows nothing of its memory, so there are no figures: those are for a machine to show.
    """
    cluster.wait_whole()
    first, *others = cluster.control_planes
    first.run("basalt enable metrics-server")
    for node in cluster.control_planes:
        node.wait_until("its API has metrics", partial(has_metrics, node), JOINED_SECONDS)
    others[-1].run("basalt disable metrics-server")
    for node in cluster.control_planes:
        node.wait_until("it has stopped", partial(has_no_metrics, node), GOES_ON_SECONDS)
    left = first.kubectl(
        "get", "services,endpointslices,clusterroles", "--all-namespaces", "--output=name"
    ).stdout
    assert "metrics-server" not in left
    cluster.wait_whole()


def test_policies_are_enforced_while_there_are_any(cluster: Cluster) -> None:
    """On all nodes, whatever is killed; the rules are there before a kubelet can give a pod a network."""
    cluster.wait_whole()
    first, worker = cluster.control_planes[0], cluster.nodes[WORKER]
    assert not any(has_rules(node) for node in cluster.nodes.values())
    first.kubectl("create", "-f", "-", stdin=json.dumps(DENY))
    for node in cluster.nodes.values():
        node.wait_until("it enforces policies", partial(enforces, node), GOES_ON_SECONDS)
    refused = first.run("basalt disable network", check=False)
    assert refused.code == 1 and "NetworkPolicy default/deny" in refused.stderr, refused

    before = worker.run("systemctl show -p MainPID --value network-policy").stdout
    worker.run("systemctl kill --signal=KILL network-policy")
    assert has_rules(worker)
    worker.wait_until("it is there again", partial(enforces, worker, before), GOES_ON_SECONDS)
    worker.kill()
    worker.start()
    worker.wait_until("it enforces policies", partial(enforces, worker), JOINED_SECONDS)
    worker.wait_for_phase(Phase.READY, JOINED_SECONDS)
    began = {
        unit: int(worker.run(f"systemctl show -p {moment} --value {unit}").stdout)
        for unit, moment in (
            ("network-policy", "ActiveEnterTimestampMonotonic"),
            ("kubelet", "ExecMainStartTimestampMonotonic"),
        )
    }
    assert 0 < began["network-policy"] < began["kubelet"]

    first.kubectl("delete", "networkpolicy", "deny")
    for node in cluster.nodes.values():
        node.wait_until("nothing is left of it", partial(has_let_go, node), GOES_ON_SECONDS)
    cluster.wait_whole()


def test_two_are_lost_for_good_and_the_third_goes_on(cluster: Cluster) -> None:
    """It has what was acknowledged, an old member that comes back is told so, and new machines take their places."""
    stays = cluster.leader()
    lost, back = cluster.others(stays)
    with cluster.writing(stays, lost):
        pass
    lost.kill()
    back.kill()
    stays.wait_until("the loss is seen", partial(would_recover, stays, lost), GOES_ON_SECONDS)
    stays.run("basalt datastore recover --yes", timeout=JOINED_SECONDS)
    for gone in (lost, back):
        del cluster.nodes[gone.name]
    cluster.wait_whole()
    cluster.verify()
    back.start()
    back.wait_until("it knows that it is out", partial(back.tells, Code.LEFT_BEHIND), JOINED_SECONDS)
    assert stays.run(f"systemctl is-active {DATASTORE_UNITS[cluster.datastore]}").ok
    for gone in (lost, back):
        gone.discard()
        said = stays.run(f"basalt remove-node {gone.name} --force", timeout=JOINED_SECONDS).stdout
        assert said.splitlines()[-1] == f"{gone.name} is out of the cluster: its name and address are free"
    for gone in (lost, back):
        cluster.add(gone.name)
    cluster.wait_whole()


def follows(node: Container) -> int:
    """Return the version of the cluster's settings that a node follows, 0 while it follows none."""
    status = node.status()
    return status.settings.version if status and status.settings else 0


def has_followed(node: Container, version: int) -> bool:
    """Whether a node follows this version, and all it has to do for it is done."""
    status = node.status()
    return follows(node) == version and status is not None and status.phase is Phase.READY


def would_recover(node: Container, lost: Container) -> bool:
    """Whether a recovery is offered, which names the other one among the lost members and does nothing yet."""
    told = node.run("basalt datastore recover", check=False, timeout=JOINED_SECONDS)
    assert told.code == 2 or "has-quorum" in told.stderr, told
    assert told.code != 2 or lost.address in told.stdout, told
    return told.code == 2


def notes(node: Container) -> bool:
    """Whether an object can be written by the API server of this node."""
    arguments = ("--request-timeout=10s", "create", "configmap", f"note-{uuid.uuid4().hex[:8]}")
    return node.kubectl(*arguments, check=False).ok


def joins(node: Container) -> bool:
    """Whether the node is about to join."""
    status = node.status()
    return status is not None and status.phase in (Phase.JOINING, Phase.STARTING)


DENY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "deny", "namespace": "default"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
}


def has_rules(node: Container) -> bool:
    """Whether the kernel has a table for policies."""
    return node.run("nft list table inet network-policy", check=False).ok


def enforces(node: Container, other_than: str = "") -> bool:
    """Whether the service lacks nothing, in another process than this."""
    pid = node.run("systemctl show -p MainPID --value network-policy").stdout
    lacks = node.run("cat /run/network-policy/lacks", check=False)
    active = node.run("systemctl is-active network-policy", check=False).ok
    return active and pid != other_than and lacks.ok and lacks.stdout == "" and has_rules(node)


def has_let_go(node: Container) -> bool:
    """Whether the service has stopped, and its table is gone."""
    state = node.run("systemctl is-active network-policy", check=False).stdout.strip()
    return state == "inactive" and not has_rules(node)


def has_metrics(node: Container) -> bool:
    """Whether the API server of this node passes requests on to a metrics server."""
    return node.kubectl("get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes", check=False).ok


def has_no_metrics(node: Container) -> bool:
    """Whether neither a metrics server runs on this node, nor its API server passes anything on to one."""
    runs = node.run("systemctl is-active metrics-server", check=False).ok
    return not runs and "metrics.k8s.io" not in node.kubectl("get", "--raw", "/apis").stdout
