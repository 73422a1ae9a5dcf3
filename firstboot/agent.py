# SPDX-License-Identifier: Apache-2.0
"""The agent: follows the document, makes passes over the plan, and serves what it knows.

One asyncio process. Each round looks at the document, at the facts and at the machine anew, so it does not
matter when the last round was, or whether another process made it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING

from firstboot import files, observe, paths, space, systemd
from firstboot import log as logs
from firstboot.api.node import JoinToken, NotYet, PlannedStep
from firstboot.backup.places import Places
from firstboot.cluster import leaving
from firstboot.cluster.fence import Fence, LeftBehind
from firstboot.cluster.joiner import Joiner
from firstboot.cluster.leaving import Leaver
from firstboot.codes import Code
from firstboot.config import Datastore, DatastoreType, Role
from firstboot.doors import Doors
from firstboot.failure import BasaltError, Failure, Refused
from firstboot.intake import Intake, Taken
from firstboot.kube import Client
from firstboot.milestones import Milestones
from firstboot.moving.records import Moving, failures
from firstboot.observe import Observer
from firstboot.pki.catalogue import Catalogue, catalogue
from firstboot.pki.verdict import Ledger
from firstboot.plan import (
    GATES,
    UNITS,
    Memory,
    Wanted,
    left_behind,
    node_probe,
    plan,
    resting,
    restoring,
    wanted,
)
from firstboot.reconcile import Pass, converge, moved
from firstboot.report import status
from firstboot.report.status import Part, Phase, Status
from firstboot.services.model import Node
from firstboot.services.timesync import UNIT as TIME_UNIT
from firstboot.steps.model import Finding, Machine, Step, Verdicts
from firstboot.steps.objects import Applied
from firstboot.steps.restore import RESTING
from firstboot.systemd import Systemd, Unit
from firstboot.values import bracketed

if TYPE_CHECKING:
    from aiohttp.web import Application

    from firstboot.backup.custodian import Custodian
    from firstboot.backup.making import Source
    from firstboot.backup.routine import Routine
    from firstboot.cluster.admission import Admission
    from firstboot.cluster.partners import Partners
    from firstboot.cluster.removal import Progress
    from firstboot.cluster.rotator import Rotator
    from firstboot.cluster.steward import Steward
    from firstboot.moving.mover import Mover
    from firstboot.moving.partaker import Partaker
    from firstboot.pki.validity import Validity

log = logging.getLogger(__name__)

HURRY = 1.0
"""Seconds between two rounds while something is on its way."""

PEEK = 0.5
"""Seconds between two looks at what a node waits for: each costs one question, a round costs dozens."""

REST_SECONDS = 120.0
"""Within how many seconds the datastore has to stop."""

BUG = "This is a bug of Basalt; `basalt logs basalt` has the details."

CALM = 5.0
"""Seconds between two rounds once everything is as it should be."""

SERVING = ("datastore", "apiserver")
"""Gates that are open on a control plane which can take in another."""

SETTINGS = "settings"
"""The step that follows the cluster's settings."""

ROTATION = "ca-rotation"
"""The step that follows the rotation of the cluster's CA."""

ENDINGS = frozenset({SETTINGS, ROTATION, "move", "move-back", "moved"})
"""Steps after which the node is another one."""

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
class Rest:
    """That units, the datastore or what uses it, have to be stopped for a while; begun: they are, busy: those not."""

    units: tuple[str, ...]
    busy: tuple[str, ...] = ()
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    def look(self, units: Mapping[str, Unit]) -> None:
        """Note whether it has begun."""
        self.busy = tuple(each for each in self.units if units[each].active not in RESTING)
        if not self.busy:
            self.begun.set()


@dataclass
class Agent:
    """The process's state; the API asks it through `firstboot.api.node.Node`."""

    systemd: Systemd
    client: Client
    intake: Intake
    milestones: Milestones
    memory: Memory
    leaver: Leaver
    observer: Observer = field(default_factory=Observer)
    course: Course | None = None
    joiner: Joiner = field(default_factory=Joiner)
    current: Status = field(default_factory=Status)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    was_ready: bool = False
    places: Places = field(default_factory=Places)
    rest: Rest | None = None
    tried: float | None = None
    behind: LeftBehind | None = None
    shortage: Callable[[], Failure | None] = space.shortage
    waits: tuple[Step, ...] = ()
    units: Mapping[str, Unit] = field(default_factory=dict)

    def status(self) -> Status:
        """Return the newest status."""
        return self.current

    async def plan(self) -> Sequence[PlannedStep]:
        """Return what the next pass would do, without doing it."""
        course = self._course()
        steps = self._steps(course, Moving.load(self.places.moving))
        result = await converge(steps, await self._machine(Verdicts()), dry=True)
        found = {step.name: finding for step, finding in result.findings}
        return [_planned(step, found, result) for step in steps]

    async def kubeconfig(self, server: str | None) -> str:
        """Return the administrator's kubeconfig."""
        from firstboot.pki.kubeconfig import render

        course = self._course()
        spec = course.certificates.kubeconfig("admin")
        if not spec.path.exists():
            raise NotYet("there is no administrator's certificate yet", "Ask again when the node is ready.")
        host = next(iter(course.node.config.cluster.api_hosts), course.node.ip)
        return render(spec, server or f"https://{bracketed(host)}:6443")

    async def certificates(self) -> Sequence[Validity]:
        """Return all certificates of the node, read anew."""
        from firstboot.pki.validity import brought, listed

        course = self._course()
        return await asyncio.to_thread(listed, course.certificates, brought(course.node.config))

    @cached_property
    def admission(self) -> Admission:
        """The gate for machines that want to join; asked on control planes only."""
        from firstboot.cluster.admission import Admission
        from firstboot.cluster.partners import Present

        return Admission(
            self.client,
            node=lambda: self._course().node,
            addresses=lambda: self.current.node.addresses,
            certificates=lambda: self._course().certificates,
            datastore=Present(self._partners),
            serves=self._serves,
            kubernetes=_kubernetes_version,
        )

    def _partners(self) -> Partners:
        """How the datastore of now takes in another control plane."""
        from firstboot.cluster.partners import partners

        kind = partners(self._course().node.config.datastore.type)
        node = self._course().node
        return kind(
            self.client, self.intake.membership, lambda: node, self._serves, lambda: self.mover.outside
        )

    @cached_property
    def mover(self) -> Mover:
        """Who moves the datastore of the cluster; has an answer on control planes only."""
        from firstboot.cluster.joining import ask
        from firstboot.cluster.voters import voters
        from firstboot.datastores.store import store
        from firstboot.moving.mover import Mover

        return Mover(
            self.datastore,
            self.client,
            serves=lambda: self.current.phase.ready and self._serves(),
            stores=lambda kind: store(Datastore(kind), self.client),
            voters=lambda kind: voters(kind, self.client),
            partners=self._partners,
            describe=self._described,
            ask=ask,
        )

    @cached_property
    def partaker(self) -> Partaker:
        """The control plane's part in a move that another one makes."""
        from firstboot.cluster.joining import ask
        from firstboot.moving.partaker import Partaker

        return Partaker(self.datastore, self.wake.set, ask)

    def for_nodes(self) -> Application:
        """Return what other nodes can ask of this control plane."""
        from firstboot.api import nodes

        app = nodes.application(self.admission)
        nodes.add_moves(app, self.mover, self.partaker)
        return app

    def _described(self, datastore: DatastoreType) -> Catalogue:
        """Return the keys and certificates of the node with a datastore."""
        node = self._course().node
        config = replace(node.config, datastore=replace(node.config.datastore, type=datastore))
        return catalogue(config, node.name, self.current.node.addresses or [node.ip])

    @cached_property
    def datastore(self) -> Custodian:
        """Who looks after this control plane's datastore; has an answer on control planes only."""
        from firstboot.backup.custodian import Custodian
        from firstboot.datastores.zones import zones

        known = partial(zones, self.client)
        return Custodian(self._source, self._restore_decided, self._rest, self.places, zones=known)

    @cached_property
    def fence(self) -> Fence:
        """What keeps this control plane from running when its cluster goes on without it."""
        return Fence(self.places.left_behind)

    @asynccontextmanager
    async def _rest(self, *units: str) -> AsyncIterator[None]:
        """Have units stopped until the end; nothing else is done meanwhile. Raises BasaltError.

        units: none for the datastore alone
        """
        before, rest = self.rest, Rest(units or (self._source().store.unit,))
        self.rest = rest
        self.wake.set()
        try:
            try:
                await asyncio.wait_for(rest.begun.wait(), REST_SECONDS)
            except TimeoutError:
                unit = next(iter(rest.busy), rest.units[-1])
                raise BasaltError(f"{unit} does not stop", f"See `basalt logs {unit}`.") from None
            yield
        finally:
            self.rest = before
            self.wake.set()

    def _restore_decided(self) -> None:
        """Say at once that the node is not ready: who waits for it to be ready again may ask at once."""
        self.was_ready = False
        self._publish(replace(self.current, phase=Phase.STARTING))
        self.wake.set()

    @cached_property
    def routine(self) -> Routine:
        """Backups on a timer; followed on control planes only."""
        from firstboot.backup.routine import Routine

        return Routine(self.datastore)

    @property
    def settings(self) -> Steward:
        """Who answers about the cluster's settings. Raises NotYet where nobody can ask the cluster."""
        from firstboot.cluster.steward import Steward

        if not self._course().certificates.certificate("agent").certificate.exists():
            raise NotYet("the node has no certificates yet", "Ask again when the node is ready.")
        return Steward(self.client, may=self._may_change_settings, changed=partial(self._look_anew, SETTINGS))

    def _may_change_settings(self) -> None:
        if not self._course().node.config.role.has_control_plane:
            raise NotYet("a worker changes no settings", "Ask a control plane.")

    def _look_anew(self, step: str) -> None:
        """Have a step follow at once what was asked of this node; the others look every few seconds."""
        self._course().verdicts.forget(step)
        self.wake.set()

    @cached_property
    def rotator(self) -> Rotator:
        """Who answers about the rotation of the cluster's CA."""
        from firstboot.cluster.rotator import Rotator

        return Rotator(
            self.client,
            authority=lambda: self._course().certificates.certificate("agent").ca,
            known=lambda: self._course().node.rotation,
            may=self._may_rotate,
            changed=partial(self._look_anew, ROTATION),
        )

    def _may_rotate(self) -> None:
        if not self._course().node.config.role.has_control_plane:
            raise NotYet("a worker replaces no CA", "Ask a control plane.")
        if not self._serves():
            raise NotYet("the control plane is not ready yet", "Ask again when the node is ready.")

    def _source(self) -> Source:
        """Return what a backup is taken of. Raises NotYet where there is no datastore."""
        from firstboot.backup.making import Source
        from firstboot.datastores.store import store

        course = self._course()
        if not course.node.config.role.has_control_plane:
            raise NotYet("a worker has no datastore", "Ask a control plane.")
        member = store(course.node.config.datastore, self.client)
        image = self.current.image.version
        return Source(course.node, course.certificates, member, image, _kubernetes_version())

    def _serves(self) -> bool:
        """Whether this control plane has been ready, and its datastore and API server work now."""
        return self.was_ready and self.leaver.departure is None and self._work(SERVING)

    def _work(self, gates: Sequence[str]) -> bool:
        """Whether the services behind the gates work, as far as the last round has seen."""
        parts = self.current.components
        return bool(parts) and all(parts[unit].state.ok for unit in parts if GATES.get(unit) in gates)

    async def join_token(self, role: Role | None, lifetime: int) -> JoinToken:
        """Make a one-time token for a machine of the role."""
        if not self._course().node.config.role.has_control_plane:
            raise NotYet("a worker gives out no tokens", "Ask a control plane.")
        record = await self.admission.new_token(role, lifetime)
        return JoinToken(record.token.text, record.role, record.expires or 0)

    async def tidy(self) -> None:
        """Remove what a power cut has left of backups; an agent that cannot has more important things to do."""
        try:
            await asyncio.to_thread(self.places.sweep)
        except BasaltError as error:
            log.warning("%s", error)

    async def remove_node(self, name: str, force: bool, timeout: int) -> AsyncIterator[Progress]:
        """Return the removal of a node; it goes on as it is iterated."""
        from firstboot.cluster.removal import Removal
        from firstboot.cluster.voters import voters

        node = self._course().node
        if not node.config.role.has_control_plane or self.leaver.departure is not None:
            found = "a worker" if not node.config.role.has_control_plane else "a node that is leaving"
            raise NotYet(f"{found} removes no other nodes", "Ask a control plane.")
        members = voters(node.config.datastore.type, self.client)
        return Removal(self.client, members, node.name, name, force, timeout).run()

    async def reset(self, force: bool) -> str:
        """Begin a reset, unless others may count on this machine."""
        try:
            self.leaver.require()
        except BasaltError as error:
            raise _refused_reset(str(error), error.hint) from None
        node = self.course.node if self.course else None
        if (
            node is not None
            and not (force or self.behind)
            and (reasons := await leaving.company(self.client, node))
        ):
            raise _refused_reset(*reasons)
        name = node.name if node else self.current.node.name
        self.leaver.reset(name)
        self.wake.set()
        return name

    async def round(self) -> None:
        """Look at everything once, do what can be done, and say how it stands."""
        self.waits = ()
        if self.leaver.departure is not None:
            await self.leaver.go_on((await self._machine(Verdicts())).units)
            self._publish(self._leaving())
            return
        taken = await asyncio.to_thread(self.intake.look)
        if taken.joiner is not None:
            self.milestones.mark("document-accepted")
            self.joiner.follow(
                taken.joiner, self.intake.membership, _kubernetes_version() or "", self.wake.set
            )
            self._publish(self._joining(taken))
            return
        if taken.node is not None and (self.course is None or self.course.node != taken.node):
            self.course = Course.of(taken.node, self.memory, taken.addresses)
            self.milestones.mark("document-accepted")
        if self.course is None:
            self._publish(self._waiting(taken))
            return
        if await self.leaver.told(self.course.node, self._work(("apiserver",))):
            self.wake.set()
            return
        self.behind = await self._left_behind(self.course)
        moving = Moving.load(self.places.moving)
        rest, course, steps = self.rest, self.course, self._steps(self.course, moving)
        if self.places.decided.exists():
            course = self._begin_anew(course.node, taken.addresses)
        machine = await self._machine(course.verdicts)
        if rest is not None:
            rest.look(machine.units)
        if moving is not None:
            self.partaker.look(machine.units)
            self.partaker.follow()
        result = await converge(steps, machine)
        self.waits, self.units = result.waits, machine.units
        if self.behind is not None:
            self._publish(self._stopped(taken, self.behind, result))
            return
        if result.applied & ENDINGS:
            # The node's records are others now: what they mean is for the next round.
            self.wake.set()
        parts = await self._parts(course, machine)
        if course.node.config.role.has_control_plane and self._serves():
            self.routine.follow(course.node.config.datastore.backup)
        self._publish(self._running(taken, course, result, parts))

    def _steps(self, course: Course, moving: Moving | None) -> tuple[Step, ...]:
        """Return what is to be done: a restore or a move that was decided, and all else when it is done."""
        if self.places.decided.exists():
            return restoring(course.node, course.certificates, self.places)
        if self.behind is not None:
            return left_behind()
        if self.rest is not None:
            return resting(self.rest.units)
        return course.steps if moving is None else self._moving(course, moving)

    def _moving(self, course: Course, moving: Moving) -> tuple[Step, ...]:
        """Return the steps of a node whose datastore is being moved."""
        from firstboot.moving.course import placing, trying

        if not moving.placed:
            self.tried = None
            return placing(self.places, self._described)
        self.tried = self.tried or time.monotonic()
        age, probe = time.monotonic() - self.tried, course.wanted.services[0].probe
        return trying(moving, course.node, course.steps, probe, self.places, age)

    async def _left_behind(self, course: Course) -> LeftBehind | None:
        """Return whether the cluster goes on without this machine; a recovery of it makes it a cluster again.

        While the datastore is moved its authority is not the same everywhere, and nobody is out for that.
        """
        if self.places.decided.exists() or self.places.moving.exists():
            return None
        return await self.fence.verdict(course.node, course.certificates)

    def _begin_anew(self, node: Node, addresses: Sequence[str]) -> Course:
        """Forget what was seen of the node before its restore: it starts as if for the first time."""
        self.course = Course.of(node, self.memory, addresses)
        self.observer, self.was_ready = Observer(), False
        self.memory.applied.forget()
        return self.course

    async def pause(self) -> None:
        """Wait until another round may find something to do: time has passed, or what this one waited for is there."""
        loop = asyncio.get_running_loop()
        end = loop.time() + (CALM if self.waits or self.current.phase.settled else HURRY)
        while (left := end - loop.time()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), min(left, PEEK) if self.waits else left)
                return
            if self.waits and await moved(self.waits, Machine(self.systemd, self.client, self.units)):
                return

    async def _machine(self, verdicts: Verdicts) -> Machine:
        units = await self.systemd.units((*UNITS, TIME_UNIT))
        return Machine(self.systemd, self.client, units, verdicts)

    async def _parts(self, course: Course, machine: Machine) -> dict[str, Part]:
        """Return the state of every service that is wanted, by unit."""
        services = course.wanted.all_services
        self.observer.forget(("datastore", *(service.unit for service in services)))
        parts: dict[str, Part] = {}
        for service in services:
            probe = node_probe(course.node, service) if service.unit == "kubelet" else service.probe
            parts[service.unit] = await self.observer.part(machine, service.unit, probe)
            if parts[service.unit].state is status.State.HEALTHY:
                self.milestones.mark(service.unit)
        return parts

    def _running(self, taken: Taken, course: Course, result: Pass, parts: Mapping[str, Part]) -> Status:
        components = {service.unit: parts[service.unit] for service in course.wanted.services}
        if (watch := course.wanted.watch) is not None:
            part = self.observer.judged("datastore", watch.reason, watch.detail)
            if part.state is status.State.HEALTHY:
                self.milestones.mark("datastore")
            components = {"datastore": part, **components}
        features = {f.name: observe.feature_part(f, parts) for f in course.wanted.features}
        phase = observe.phase((*components.values(), *features.values()), self.was_ready)
        shortage = self.shortage()
        # Services that a restore has yet to stop say that they are well, and so do those that cannot write any more.
        unfinished = result.failures or result.blocked or self.places.unfinished or shortage
        if phase.ready and unfinished:
            phase = Phase.DEGRADED if self.was_ready else Phase.STARTING
        if taken.failures:
            phase = Phase.DOCUMENT_INVALID
        if phase.ready:
            self.was_ready = True
            self.milestones.mark("ready")
        expiries = self._expiries(course)
        return replace(
            self._base(taken),
            phase=phase,
            node=status.Node(course.node.name, course.node.config.role.value, taken.addresses),
            components=components,
            features=features,
            failures=(
                *taken.failures,
                *((shortage,) if shortage else ()),
                *result.failures,
                *(watch.failures if watch is not None else ()),
                *observe.failures(parts),
                *self._refusals,
                *self._backup_failures,
                *self._moves(course),
                *self._endings(course, expiries),
                *self.memory.behind.failures(course.node.rotation),
            ),
            certificates=expiries,
            settings=_followed(course.node),
            backup=self.routine.last if "routine" in vars(self) else None,
            rotation=self.memory.behind.shown(course.node.rotation),
        )

    def _leaving(self) -> Status:
        """Return the status of a machine that is about to be reset: nothing that it ran matters any more."""
        departure, known = self.leaver.departure, self.current
        if departure is None:
            return known
        return replace(
            known,
            phase=Phase.LEAVING,
            node=replace(known.node, name=departure.name),
            components={},
            features={},
            failures=self.leaver.failures,
        )

    def _stopped(self, taken: Taken, behind: LeftBehind, result: Pass) -> Status:
        """Return the status of a machine that its cluster has left behind: none of its services shall run."""
        course = self._course()
        return replace(
            self._base(taken),
            phase=Phase.DEGRADED,
            node=status.Node(course.node.name, course.node.config.role.value, taken.addresses),
            failures=(behind.failure, *taken.failures, *result.failures),
        )

    def _joining(self, taken: Taken) -> Status:
        """Return the status of a machine that is no member yet."""
        node = taken.joiner
        assert node is not None
        return replace(
            self._base(taken),
            phase=Phase.JOINING,
            node=status.Node(node.name, node.config.role.value, taken.addresses),
            failures=(*taken.failures, *self.joiner.failures),
        )

    def _waiting(self, taken: Taken) -> Status:
        phase = Phase.STARTING if taken.pending else Phase.WAITING_FOR_DOCUMENT
        if taken.failures:
            phase = Phase.DOCUMENT_INVALID if taken.present else Phase.WAITING_FOR_DOCUMENT
        return replace(self._base(taken), phase=phase, failures=taken.failures)

    def _base(self, taken: Taken) -> Status:
        facts = taken.facts
        return Status(
            node=status.Node(facts.hostname, None, taken.addresses),
            image=status.Image(facts.image_version, facts.image_slot),
            kubernetes=_kubernetes_version(),
            document=status.Document(taken.origin, taken.digest),
            timings=dict(self.milestones.reached),
        )

    @property
    def _refusals(self) -> tuple[Failure, ...]:
        return self.admission.refusals if "admission" in vars(self) else ()

    @property
    def _backup_failures(self) -> tuple[Failure, ...]:
        failure = self.routine.failure if "routine" in vars(self) else None
        return (failure,) if failure else ()

    def _moves(self, course: Course) -> tuple[Failure, ...]:
        """Return what is to be told about a move of the datastore."""
        return tuple(failures(self.places.state)) if course.node.config.role.has_control_plane else ()

    def _expiries(self, course: Course) -> dict[str, str]:
        from firstboot import pki
        from firstboot.pki.validity import brought, brought_ends, written

        if self.current.certificates and course.verdicts.holds("certificates"):
            return dict(self.current.certificates)
        found = pki.expiries(course.certificates, self.memory.ledger)
        # To read certificates takes the time of a whole service that could be starting.
        if self.was_ready:
            found |= brought_ends(brought(course.node.config))
        return {name: written(end) for name, end in found.items()}

    def _endings(self, course: Course, expiries: Mapping[str, str]) -> tuple[Failure, ...]:
        """Return what is to be told about certificates that end."""
        from firstboot.pki.validity import brought, endings

        ends = {name: datetime.fromisoformat(end) for name, end in expiries.items()}
        documents = brought(course.node.config)
        return tuple(endings(course.certificates, ends, datetime.now(UTC), documents))

    def add_failures(self, failures: Sequence[Failure]) -> None:
        """Add what went wrong outside of the plan to the newest status."""
        known = self.current.failures
        self._publish(replace(self.current, failures=(*known, *(f for f in failures if f not in known))))

    def _publish(self, new: Status) -> None:
        if replace(new, updated=self.current.updated) != self.current:
            self.current = new

    def _course(self) -> Course:
        if self.course is None:
            raise NotYet("there is no valid document yet", "`basalt status` says what is missing.")
        return self.course


def _followed(node: Node) -> status.Settings | None:
    return status.Settings(node.followed.version, node.followed.made) if node.followed else None


def _planned(step: Step, found: Mapping[str, Finding], result: Pass) -> PlannedStep:
    if need := result.blocked.get(step.name):
        return PlannedStep(step.name, "", "blocked", f"needs {need} first")
    failure = next((failure for failure in result.failures if failure.path == step.name), None)
    if failure:
        return PlannedStep(step.name, "", "fail", failure.found)
    finding = found.get(step.name)
    if finding is None:
        return PlannedStep(step.name, "", "none", "as it should be")
    return PlannedStep(step.name, finding.path, finding.action, finding.reason)


@cache
def _kubernetes_version() -> str | None:
    return (files.read_or_none(KUBERNETES_VERSION) or b"").decode().strip() or None


async def run() -> None:
    """Run until SIGTERM. Services go on without the agent; the next one finds everything as it is."""
    milestones = Milestones(paths.RUN / "milestones.json")
    milestones.mark("agent")
    manager = await Systemd.connect()
    async with Client() as client:
        intake = Intake()
        memory = Memory(Ledger(paths.STATE / "certificates.json"), Applied(), intake.membership)
        leaver = Leaver(manager, client, paths.STATE / "leaving.json")
        agent = Agent(manager, client, intake, milestones, memory, leaver)
        doors = Doors(agent, agent.for_nodes)
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await agent.tidy()
        await manager.hold((*UNITS, TIME_UNIT))
        await manager.on_change(agent.wake.set)
        systemd.notify("READY=1")
        rounds = asyncio.create_task(_rounds(agent, doors))
        await asyncio.wait({rounds, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
        systemd.notify("STOPPING=1")
        rounds.cancel()
        await asyncio.gather(rounds, return_exceptions=True)
        await doors.close()
    manager.close()


async def _rounds(agent: Agent, doors: Doors) -> None:
    """Make rounds for ever; a bug in one is shown and the next one is made all the same."""
    while True:
        agent.wake.clear()
        try:
            await agent.round()
            shut = await doors.follow(agent.course.node.config if agent.course else None)
            if shut:
                agent.add_failures(shut)
        except (BasaltError, OSError) as error:
            log.warning("%s", error)
            agent.add_failures([_internal(error, "It is tried again every few seconds.")])
        except Exception as error:
            log.exception("a round ended by a bug")
            agent.add_failures([_internal(error, BUG)])
        doors.show(agent.current)
        systemd.notify("WATCHDOG=1")
        await agent.pause()


def _refused_reset(found: str, remedy: str) -> Refused:
    return Refused([Failure(Code.RESET_REFUSED, "reset", found, remedy)])


def _internal(error: BaseException, remedy: str) -> Failure:
    return Failure(Code.AGENT_ERROR, "basalt", f"{type(error).__name__}: {error}", remedy)


def main() -> int:
    """Start the agent; the entry point of basalt.service."""
    logs.setup()
    asyncio.run(run())
    return 0
