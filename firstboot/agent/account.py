# SPDX-License-Identifier: Apache-2.0
"""The agent's account of its node: the status document, for each situation that a machine can be in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from firstboot import observe, pki, space
from firstboot.clocks import Clocks
from firstboot.cluster.fence import LeftBehind
from firstboot.failure import Failure
from firstboot.intake import Taken
from firstboot.milestones import Milestones
from firstboot.moving.records import failures as moves
from firstboot.observe import Observer
from firstboot.plan import node_probe
from firstboot.reconcile import Pass
from firstboot.report import status
from firstboot.report.status import Part, Phase, State, Status
from firstboot.services.model import Node
from firstboot.steps.model import Machine

from .answers import Answers
from .standing import Course, Standing, kubernetes_version


@dataclass
class Account:
    """What is told of the node. Each method but `parts` returns a status and changes nothing but what was reached.

    shortage: says whether the disk is too full to go on
    """

    standing: Standing
    milestones: Milestones
    answers: Answers
    clocks: Clocks
    observer: Observer = field(default_factory=Observer)
    shortage: Callable[[], Failure | None] = space.shortage

    async def parts(self, course: Course, machine: Machine) -> dict[str, Part]:
        """Return the state of every service that is wanted, by unit."""
        services = course.wanted.all_services
        self.observer.forget(("datastore", *(service.unit for service in services)))
        parts: dict[str, Part] = {}
        for service in services:
            probe = node_probe(course.node, service) if service.unit == "kubelet" else service.probe
            parts[service.unit] = await self.observer.part(machine, service.unit, probe)
            if parts[service.unit].state is State.HEALTHY:
                self.milestones.mark(service.unit)
        return parts

    def running(self, taken: Taken, course: Course, result: Pass, parts: Mapping[str, Part]) -> Status:
        """Return the status of a node that follows its document."""
        standing = self.standing
        components = {service.unit: parts[service.unit] for service in course.wanted.services}
        if (watch := course.wanted.watch) is not None:
            part = self.observer.judged("datastore", watch.reason, watch.detail)
            if part.state is State.HEALTHY:
                self.milestones.mark("datastore")
            components = {"datastore": part, **components}
        features = {f.name: observe.feature_part(f, parts) for f in course.wanted.features}
        phase = observe.phase(
            (*components.values(), *features.values()), standing.was_ready, self.observer.lacking
        )
        shortage = self.shortage()
        # Services that a restore has yet to stop say that they are well, and so do those that cannot write any more.
        unfinished = result.failures or result.blocked or standing.places.unfinished or shortage
        if phase.ready and unfinished:
            phase = Phase.DEGRADED if standing.was_ready else Phase.STARTING
        if taken.failures:
            phase = Phase.DOCUMENT_INVALID
        if phase.ready:
            standing.was_ready = True
            self.milestones.mark("ready")
        expiries = self._expiries(course)
        behind = standing.memory.behind
        return replace(
            self._base(taken),
            phase=phase,
            node=_named(course.node, taken),
            components=components,
            features=features,
            failures=(
                *taken.failures,
                *((shortage,) if shortage else ()),
                *result.failures,
                *(watch.failures if watch is not None else ()),
                *self.observer.failures(parts),
                *self.answers.failures,
                *self.clocks.failures,
                *(moves(standing.places.state) if course.node.config.role.has_control_plane else ()),
                *_endings(course, expiries),
                *behind.failures(course.node.rotation),
            ),
            certificates=expiries,
            settings=_followed(course.node),
            backup=self.answers.last_backup,
            rotation=behind.shown(course.node.rotation),
        )

    def leaving(self) -> Status:
        """Return the status of a machine that is about to be reset: nothing that it ran matters any more."""
        leaver, known = self.standing.leaver, self.standing.current
        if leaver.departure is None:
            return known
        return replace(
            known,
            phase=Phase.LEAVING,
            node=replace(known.node, name=leaver.departure.name),
            components={},
            features={},
            failures=leaver.failures,
        )

    def left_behind(self, taken: Taken, course: Course, behind: LeftBehind, result: Pass) -> Status:
        """Return the status of a machine that its cluster has left behind: none of its services shall run."""
        return replace(
            self._base(taken),
            phase=Phase.DEGRADED,
            node=_named(course.node, taken),
            failures=(behind.failure, *taken.failures, *result.failures),
        )

    def joining(self, taken: Taken, node: Node, failures: Sequence[Failure]) -> Status:
        """Return the status of a machine that is no member yet."""
        return replace(
            self._base(taken),
            phase=Phase.JOINING,
            node=_named(node, taken),
            failures=(*taken.failures, *failures),
        )

    def waiting(self, taken: Taken) -> Status:
        """Return the status of a machine that has never had a valid document."""
        phase = Phase.STARTING if taken.pending else Phase.WAITING_FOR_DOCUMENT
        if taken.failures:
            phase = Phase.DOCUMENT_INVALID if taken.present else Phase.WAITING_FOR_DOCUMENT
        return replace(self._base(taken), phase=phase, failures=taken.failures)

    def _base(self, taken: Taken) -> Status:
        facts = taken.facts
        return Status(
            node=status.Node(facts.hostname, None, taken.addresses),
            image=status.Image(facts.image_version, facts.image_slot),
            kubernetes=kubernetes_version(),
            document=status.Document(taken.origin, taken.digest),
            timings=dict(self.milestones.reached),
        )

    def _expiries(self, course: Course) -> dict[str, str]:
        """Return when each certificate ends, by name."""
        from firstboot.pki.validity import brought, brought_ends, written

        known = self.standing.current.certificates
        if known and course.verdicts.holds("certificates"):
            return dict(known)
        found = pki.expiries(course.certificates, self.standing.memory.ledger)
        # To read certificates takes the time of a whole service that could be starting.
        if self.standing.was_ready:
            found |= brought_ends(brought(course.node.config))
        return {name: written(end) for name, end in found.items()}


def _named(node: Node, taken: Taken) -> status.Node:
    return status.Node(node.name, node.config.role.value, taken.addresses)


def _followed(node: Node) -> status.Settings | None:
    return status.Settings(node.followed.version, node.followed.made) if node.followed else None


def _endings(course: Course, expiries: Mapping[str, str]) -> tuple[Failure, ...]:
    """Return what is to be told about certificates that end."""
    from firstboot.pki.validity import brought, endings

    ends = {name: datetime.fromisoformat(end) for name, end in expiries.items()}
    documents = brought(course.node.config)
    return tuple(endings(course.certificates, ends, datetime.now(UTC), documents))
