# SPDX-License-Identifier: Apache-2.0
"""Measures clusters in containers: how soon they are Ready, how much they write, how they get over a loss.

One cluster at a time, each with new state: for each datastore one control plane alone, then three and a worker.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean

from firstboot.report.status import Phase
from image.vm.fleet import address

from ..node import ADMIN_KUBECONFIG
from ..nspawn.cluster import CONTROL_PLANES, GOES_ON_SECONDS, JOINED_SECONDS, WORKER, Cluster
from ..nspawn.container import Container, Tree
from ..nspawn.host import empty
from . import availability, memory, writes
from .availability import Load, Write
from .boots import rest
from .results import DATASTORES, MEMBERS, Loss, Move, Outage, Weight
from .results import Cluster as Measured

LOAD_SECONDS, LOAD_WRITERS = 20.0, 8
VIRTUAL = address(100)
BALANCED_WRITERS = 3
"""Through a worker's balancer, which spreads connections evenly: one of them is to the control plane that is lost."""
PROGRESS = 20
"""Acknowledged writes that say that it goes on, of each writer."""


def rounds(tree: Tree, count: int, settle: float) -> Iterator[Measured]:
    """Measure each kind of cluster count times; which datastore begins changes, as the host may change meanwhile."""
    for number in range(count):
        for members in MEMBERS:
            for datastore in DATASTORES if number % 2 == 0 else DATASTORES[::-1]:
                print(f"clusters {number + 1} of {count}, {datastore}, {members} …", end=" ", flush=True)
                with empty(datastore, tree) as cluster:
                    found = measure(cluster, members, settle)
                print(f"Ready {found.ready:.1f} s, {found.load.per_second:.0f} writes a second", flush=True)
                yield found


def measure(cluster: Cluster, members: int, settle: float) -> Measured:
    """Follow one cluster from power-on to its end."""
    ready = switch_on(cluster, members)
    nodes = cluster.control_planes
    if members > 1:
        cluster.wait_whole()
    rest(nodes[0], settle)
    idle = weigh(nodes)
    taken = load(cluster)
    used = weigh(nodes)
    outages, moves = (lose_leaders(cluster), lose_carriers(cluster)) if members > 1 else ((), ())
    return Measured(cluster.datastore, members, round(ready, 1), idle, used, taken, outages, moves)


def switch_on(cluster: Cluster, members: int) -> float:
    """Start all nodes and return after how many seconds the last of them was Ready."""
    started = time.monotonic()
    first, *more = CONTROL_PLANES[:members]
    for name in (first, *more, *([WORKER] if more else [])):
        cluster.add(name)
    for node in cluster.nodes.values():
        node.wait_for_phase(Phase.READY, JOINED_SECONDS, failed_units=True)
    return time.monotonic() - started


def weigh(nodes: Sequence[Container]) -> Weight:
    """Return the memory of control planes, shared pages divided among those who share them."""
    found = [memory.measure(node).services for node in nodes]
    return Weight(
        mean(services[memory.DATASTORE].pss for services in found),
        mean(sum(use.pss for use in services.values()) for services in found),
    )


def load(cluster: Cluster) -> Load:
    """Write through one API server for a while; of several, one whose datastore's member has to ask the leader."""
    nodes = cluster.control_planes
    node = nodes[0] if len(nodes) == 1 else cluster.others(cluster.leader())[0]
    journal = cluster.folder / "load.journal"
    with writes.writing(node.beside, kubeconfig(node), journal, LOAD_WRITERS):
        rest(node, LOAD_SECONDS)
    return Load.of(writes.read(journal))


def kubeconfig(node: Container) -> Path:
    """Return the administrator's kubeconfig as the host sees it."""
    return node.root / ADMIN_KUBECONFIG.lstrip("/")


@dataclass(frozen=True)
class Probe:
    """Writers of whom each must go on; read: what was acknowledged to them so far."""

    writers: int
    read: Callable[[], list[Write]]

    def goes_on(self, since: float) -> bool:
        """Whether each writer has enough acknowledgements since then."""
        later = [each.writer for each in self.read() if each.ended > since]
        return all(later.count(number) >= PROGRESS for number in range(self.writers))


def lose_leaders(cluster: Cluster) -> tuple[Outage, ...]:
    """Lose the leader of the datastore in each way, one after the other."""
    return tuple(lose_leader(cluster, loss) for loss in Loss)


def lose_leader(cluster: Cluster, loss: Loss) -> Outage:
    """Lose the control plane whose member leads while others are written to, and make the cluster whole again."""
    leader = cluster.leader()
    survivor, worker = cluster.others(leader)[0], cluster.nodes[WORKER]
    journals = [cluster.folder / f"{loss.name}.{place}" for place in ("datastore", "survivor", "worker")]
    prefix, admin = f"/registry/{loss.name}/", kubeconfig(survivor)
    torture = survivor.torture(cluster.datastore, cluster.program, journals[0], prefix)
    probes = (
        Probe(1, partial(acknowledged, journals[0])),
        Probe(1, partial(writes.read, journals[1])),
        Probe(BALANCED_WRITERS, partial(writes.read, journals[2])),
    )
    # Who has lost its connections gets all new ones until it has as many as the others: they shall begin evenly again.
    worker.run("systemctl restart api-balancer")
    worker.wait_for_phase(Phase.READY, GOES_ON_SECONDS)
    with (
        torture.writing(1),
        writes.writing(survivor.beside, admin, journals[1], 1),
        writes.writing(worker.beside, admin, journals[2], BALANCED_WRITERS),
    ):
        wait_for(survivor, probes, time.time())
        lost = time.time()
        lose(cluster, leader, loss)
        wait_for(survivor, probes, time.time())
    found = [availability.worst(probe.read(), lost) for probe in probes]
    bring_back(cluster, leader, loss)
    return Outage(loss, *(round(seconds, 2) for seconds in found))


def lose_carriers(cluster: Cluster) -> tuple[Move, ...]:
    """Give the API a virtual address, and lose who carries it in each way, one after the other."""
    first, worker = cluster.control_planes[0], cluster.nodes[WORKER]
    first.run(f"basalt set cluster.virtual-address={VIRTUAL}")
    wait_for_carrier(cluster)
    given = cluster.folder / "virtual.kubeconfig"
    given.write_text(first.run("basalt kubeconfig").stdout)
    return tuple(lose_carrier(cluster, worker, given, loss) for loss in Loss)


def wait_for_carrier(cluster: Cluster) -> None:
    """Wait until one control plane, and no other, has the API's address."""
    one = cluster.control_planes[0]
    one.wait_until("one carries it", lambda: len(cluster.carriers(VIRTUAL)) == 1, GOES_ON_SECONDS)


def lose_carrier(cluster: Cluster, client: Container, given: Path, loss: Loss) -> Move:
    """Lose the control plane that carries the API's address while a client writes through it."""
    journal = cluster.folder / f"{loss.name}.virtual"
    probe = Probe(1, partial(writes.read, journal))
    [carrier] = cluster.carriers(VIRTUAL)
    with writes.writing(client.beside, given, journal, 1, VIRTUAL):
        wait_for(client, [probe], time.time())
        lost = time.time()
        lose(cluster, carrier, loss)
        wait_for(client, [probe], time.time())
    found = Move(loss, round(availability.worst(probe.read(), lost), 2))
    bring_back(cluster, carrier, loss)
    wait_for_carrier(cluster)
    return found


def acknowledged(path: Path) -> list[Write]:
    """Return what was acknowledged to the torture program's writer; its last line may not be whole yet."""
    text = path.read_text() if path.exists() else ""
    records = map(json.loads, text[: text.rfind("\n") + 1].splitlines())
    return [
        Write(0, each["started"] / 1e9, each["ended"] / 1e9) for each in records if each["outcome"] == "made"
    ]


def wait_for(node: Container, probes: Sequence[Probe], since: float) -> None:
    """Wait until all writers go on."""
    node.wait_until("writes go on", lambda: all(probe.goes_on(since) for probe in probes), GOES_ON_SECONDS)


def lose(cluster: Cluster, node: Container, loss: Loss) -> None:
    """Lose a control plane."""
    if loss is Loss.KILLED:
        cluster.power_cut(node)
    else:
        cluster.wires.divide([node.name], [name for name in cluster.nodes if name != node.name])


def bring_back(cluster: Cluster, node: Container, loss: Loss) -> None:
    """Make the cluster whole again."""
    if loss is Loss.KILLED:
        node.start()
    else:
        cluster.wires.heal()
    cluster.wait_whole()
