# SPDX-License-Identifier: Apache-2.0
"""What rounds, answers and the status share: which node this is, and how it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from firstboot import files, paths
from firstboot.api.node import NotYet
from firstboot.backup.places import Places
from firstboot.cluster.fence import LeftBehind
from firstboot.cluster.leaving import Leaver
from firstboot.failure import Failure
from firstboot.kube import Client
from firstboot.pki.catalogue import Catalogue, catalogue
from firstboot.plan import GATES, Memory, Wanted, plan, wanted
from firstboot.report.status import Status
from firstboot.services.model import Node
from firstboot.steps.model import Step, Verdicts

from .rest import Rest

SERVING = ("datastore", "apiserver")
"""Gates that are open on a control plane which can take in another."""

KUBERNETES_VERSION = paths.SHARE / "kubernetes-version"


@dataclass
class Course:
    """What the agent follows: the node that the document describes, and the plan that makes it so."""

    node: Node
    wanted: Wanted
    certificates: Catalogue
    steps: tuple[Step, ...]
    verdicts: Verdicts = field(default_factory=Verdicts)

    @classmethod
    def of(cls, node: Node, memory: Memory, addresses: Sequence[str]) -> Course:
        """Compute what should be; addresses: of the machine, the node's own first."""
        goal = wanted(node)
        certificates = catalogue(node.config, node.name, addresses)
        return cls(node, goal, certificates, plan(node, goal, certificates, memory))


@dataclass
class Standing:
    """How the node stands, between two rounds.

    memory:    what steps remember; memory.membership is the node's record of its cluster
    current:   the newest status
    course:    None before there is a valid document
    wake:      set to begin the next round at once
    was_ready: whether the node has been ready since the agent started, or since a restore
    rest:      units that have to be stopped now
    behind:    that the cluster goes on without this machine
    """

    client: Client
    memory: Memory
    leaver: Leaver
    places: Places = field(default_factory=Places)
    current: Status = field(default_factory=Status)
    course: Course | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    was_ready: bool = False
    rest: Rest | None = None
    behind: LeftBehind | None = None

    def known(self) -> Course:
        """Return the course. Raises NotYet before there is one."""
        if self.course is None:
            raise NotYet("there is no valid document yet", "`basalt status` says what is missing.")
        return self.course

    def require_control_plane(self, found: str) -> Course:
        """Return the course of a control plane. Raises NotYet on a worker, with what it lacks."""
        course = self.known()
        if not course.node.config.role.has_control_plane:
            raise NotYet(found, "Ask a control plane.")
        return course

    def serves(self) -> bool:
        """Whether this control plane has been ready, and its datastore and API server work now."""
        return self.was_ready and self.leaver.departure is None and self.work(SERVING)

    def work(self, gates: Sequence[str]) -> bool:
        """Whether the services behind the gates work, as far as the last round has seen."""
        parts = self.current.components
        return bool(parts) and all(parts[unit].state.ok for unit in parts if GATES.get(unit) in gates)

    def look_anew(self, step: str) -> None:
        """Have a step follow at once what was asked of this node; the others look every few seconds."""
        self.known().verdicts.forget(step)
        self.wake.set()

    def publish(self, new: Status) -> None:
        """Make it the newest status, if it says anything new."""
        if replace(new, updated=self.current.updated) != self.current:
            self.current = new

    def add_failures(self, failures: Sequence[Failure]) -> None:
        """Add what went wrong outside of the plan to the newest status."""
        known = self.current.failures
        self.publish(replace(self.current, failures=(*known, *(f for f in failures if f not in known))))


@cache
def kubernetes_version() -> str | None:
    """Return the version of the image's Kubernetes, e.g. ``v1.37.0``; None outside of an image."""
    return (files.read_or_none(KUBERNETES_VERSION) or b"").decode().strip() or None
