# SPDX-License-Identifier: Apache-2.0
"""The results of clusters for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from .markdown import spread, table
from .results import DATASTORES, MEMBERS, Cluster, Clusters, Loss

MIB = 1 << 20
KINDS = [(datastore, members) for members in MEMBERS for datastore in DATASTORES]
NAMES = {1: "one control plane", 3: "three and a worker"}
HEADS = [f"{datastore}, {members}" for datastore, members in KINDS]
PLACES = {
    "datastore": "another datastore member",
    "survivor": "another API server",
    "worker": "a worker's balancer",
}


def parts(clusters: Clusters) -> Iterator[str]:
    """Yield one table for each question."""
    yield table(["seconds from power-on to Ready", "dqlite", "etcd"], _ready_rows(clusters))
    yield table(["writes through an API server", *HEADS], _load_rows(clusters))
    yield table(["longest seconds without a write", "dqlite", "etcd"], _outage_rows(clusters))
    yield table(["MiB of a control plane", *HEADS], _weight_rows(clusters))


def _ready_rows(clusters: Clusters) -> Iterator[list[str]]:
    for members in MEMBERS:
        yield [
            NAMES[members],
            *(_cell(clusters.of(each, members), lambda found: found.ready, 1) for each in DATASTORES),
        ]
    yield ["ratio", *(spread(clusters.ratios(each), 2) for each in DATASTORES)]


def _load_rows(clusters: Clusters) -> Iterator[list[str]]:
    yield ["acknowledged per second", *_kinds(clusters, lambda found: found.load.per_second, 0)]
    yield ["half within, ms", *_kinds(clusters, lambda found: found.load.p50, 1)]
    yield ["99 % within, ms", *_kinds(clusters, lambda found: found.load.p99, 1)]


def _outage_rows(clusters: Clusters) -> Iterator[list[str]]:
    for loss in Loss:
        for place, name in PLACES.items():
            cells = []
            for datastore in DATASTORES:
                outages = (each for found in clusters.of(datastore, 3) for each in found.outages)
                cells.append(spread([getattr(each, place) for each in outages if each.loss is loss], 1))
            yield [f"leader {loss}, at {name}", *cells]
    for loss in Loss:
        yield [
            f"carrier of the API's address {loss}, at that address",
            *(_moves(clusters, each, loss) for each in DATASTORES),
        ]


def _moves(clusters: Clusters, datastore: str, loss: Loss) -> str:
    moves = (each for found in clusters.of(datastore, 3) for each in found.moves)
    return spread([each.seconds for each in moves if each.loss is loss], 1)


def _weight_rows(clusters: Clusters) -> Iterator[list[str]]:
    for when, moment in (("idle", "idle"), ("used", "after the writes")):
        for part, name in (("datastore", "the datastore"), ("node", "all processes")):

            def weight(found: Cluster, when: str = when, part: str = part) -> float:
                return float(getattr(getattr(found, when), part)) / MIB

            yield [f"{name}, {moment}", *_kinds(clusters, weight, 0)]


def _kinds(clusters: Clusters, value: Callable[[Cluster], float], digits: int) -> list[str]:
    return [_cell(clusters.of(*kind), value, digits) for kind in KINDS]


def _cell(found: Sequence[Cluster], value: Callable[[Cluster], float], digits: int) -> str:
    return spread([value(each) for each in found], digits)
