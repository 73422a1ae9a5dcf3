# SPDX-License-Identifier: Apache-2.0
"""The steps of a control plane that takes part in a move; all others wait until it is over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from firstboot.backup.places import Places
from firstboot.config import DatastoreType
from firstboot.moving.records import Moving
from firstboot.probes import Probe
from firstboot.services.model import Node
from firstboot.steps.model import Step
from firstboot.steps.moving import Describe, GoBack, Place, Settle
from firstboot.steps.units import stopped

WRITERS = ("kube-scheduler", "kube-controller-manager", "kube-apiserver")
"""What writes to the datastore, and who writes by that; in the order in which they end well."""
UNITS = {DatastoreType.DQLITE: "k8s-dqlite", DatastoreType.ETCD: "etcd"}
USERS = (*WRITERS, *UNITS.values())
GATE = "datastore"
REASON = "the datastore is being moved"


def placing(places: Places, describe: Describe) -> tuple[Step, ...]:
    """Return the steps until the new datastore has its place. The kubelet goes on, and so do pods."""
    resting = stopped(USERS, REASON)
    return *resting, Place(USERS, places, describe, needs=tuple(step.name for step in resting))


def trying(
    record: Moving, node: Node, steps: Sequence[Step], probe: Probe, places: Places, age: float
) -> tuple[Step, ...]:
    """Return the steps from there until it has answered.

    steps: of the node with the new datastore, of which those count that are needed for it
    probe: of the new datastore
    age:   seconds since this began
    """
    resting = stopped([unit for unit in USERS if unit != UNITS[record.to]], REASON)
    return *resting, *_until(GATE, steps), GoBack(probe, places, age), Settle(node, places)


def _until(name: str, steps: Sequence[Step]) -> Iterator[Step]:
    for step in steps:
        yield step
        if step.name == name:
            return
