# SPDX-License-Identifier: Apache-2.0
"""A cluster of three control planes and a worker goes on when machines die, and loses nothing it acknowledged."""

from __future__ import annotations

import uuid
from functools import partial

from firstboot.report.status import Phase

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


def notes(node: Container) -> bool:
    """Whether an object can be written by the API server of this node."""
    arguments = ("--request-timeout=10s", "create", "configmap", f"note-{uuid.uuid4().hex[:8]}")
    return node.kubectl(*arguments, check=False).ok


def joins(node: Container) -> bool:
    """Whether the node is about to join."""
    status = node.status()
    return status is not None and status.phase in (Phase.JOINING, Phase.STARTING)
