# SPDX-License-Identifier: Apache-2.0
"""One round of the agent: it looks at the document, the facts and the machine, and does what can be done.

Each looks at everything anew, so it does not matter when the last one was, or whether another process made it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property

from firstboot.api.node import PlannedStep
from firstboot.clocks import Clocks
from firstboot.cluster.fence import Fence, LeftBehind
from firstboot.cluster.joiner import Joiner
from firstboot.intake import Intake, Taken
from firstboot.milestones import Milestones
from firstboot.moving.records import Moving
from firstboot.observe import Observer
from firstboot.plan import UNITS, left_behind, resting, restoring
from firstboot.reconcile import Pass, converge, moved
from firstboot.services.model import Node
from firstboot.services.timesync import UNIT as TIME_UNIT
from firstboot.steps.model import Finding, Machine, Step, Verdicts
from firstboot.systemd import Systemd, Unit

from .account import Account
from .answers import CONTROL_PLANES, POLICIES, ROTATION, SETTINGS, Answers
from .standing import Course, Standing, kubernetes_version

HURRY = 1.0
"""Seconds between two rounds while something is on its way."""

PEEK = 0.5
"""Seconds between two looks at what a node waits for: each costs one question, a round costs dozens."""

CALM = 5.0
"""Seconds between two rounds once everything is as it should be."""

ENDINGS = frozenset({SETTINGS, POLICIES, ROTATION, CONTROL_PLANES, "move", "move-back", "moved"})
"""Steps after which the node is another one."""


class Agent:
    """What makes the rounds."""

    def __init__(self, systemd: Systemd, intake: Intake, milestones: Milestones, standing: Standing) -> None:
        """Make none yet."""
        self.standing = standing
        self.answers = Answers(standing, self.planned)
        self.clocks = Clocks(standing.client)
        self.account = Account(standing, milestones, self.answers, self.clocks)
        self._systemd = systemd
        self._intake = intake
        self._milestones = milestones
        self._joiner = Joiner()
        self._tried: float | None = None
        self._waits: tuple[Step, ...] = ()
        self._units: Mapping[str, Unit] = {}

    @cached_property
    def fence(self) -> Fence:
        """What keeps this control plane from running when its cluster goes on without it."""
        return Fence(self.standing.places.left_behind)

    async def planned(self) -> Sequence[PlannedStep]:
        """Return what the next round would do, without doing it."""
        steps = self._steps(self.standing.known(), Moving.load(self.standing.places.moving))
        result = await converge(steps, await self._machine(Verdicts()), dry=True)
        found = {step.name: finding for step, finding in result.findings}
        return [_planned(step, found, result) for step in steps]

    async def round(self) -> None:
        """Look at everything once, do what can be done, and say how it stands."""
        standing, account = self.standing, self.account
        self._waits = ()
        if standing.leaver.departure is not None:
            await standing.leaver.go_on((await self._machine(Verdicts())).units)
            standing.publish(account.leaving())
            return
        taken = await asyncio.to_thread(self._intake.look)
        if taken.joiner is not None:
            self._milestones.mark("document-accepted")
            self._joiner.follow(
                taken.joiner, self._intake.membership, kubernetes_version() or "", standing.wake.set
            )
            standing.publish(account.joining(taken, taken.joiner, self._joiner.failures))
            return
        if taken.node is not None and (standing.course is None or standing.course.node != taken.node):
            standing.course = Course.of(taken.node, standing.memory, taken.addresses)
            self._milestones.mark("document-accepted")
        if standing.course is None:
            standing.publish(account.waiting(taken))
        elif await standing.leaver.told(standing.course.node, standing.work(("apiserver",))):
            standing.wake.set()
        else:
            await self._follow(taken, standing.course)

    async def _follow(self, taken: Taken, course: Course) -> None:
        """Make the node what the course says, or what was decided to come first."""
        standing, account, answers = self.standing, self.account, self.answers
        standing.behind = await self._left_behind(course)
        moving = Moving.load(standing.places.moving)
        rest, steps = standing.rest, self._steps(course, moving)
        if standing.places.decided.exists():
            course = self._begin_anew(course.node, taken.addresses)
        machine = await self._machine(course.verdicts)
        if rest is not None:
            rest.look(machine.units)
        if moving is not None:
            answers.partaker.look(machine.units)
            answers.partaker.follow()
        result = await converge(steps, machine)
        self._waits, self._units = result.waits, machine.units
        if standing.behind is not None:
            standing.publish(account.left_behind(taken, course, standing.behind, result))
            return
        if result.applied & ENDINGS:
            # The node's records are others now: what they mean is for the next round.
            standing.wake.set()
        parts = await account.parts(course, machine)
        if standing.was_ready:
            await self.clocks.look(course.node.config.role)
        if course.node.config.role.has_control_plane and standing.serves():
            answers.routine.follow(course.node.config.datastore.backup)
        standing.publish(account.running(taken, course, result, parts))

    def _steps(self, course: Course, moving: Moving | None) -> tuple[Step, ...]:
        """Return what is to be done: a restore or a move that was decided, and all else when it is done."""
        standing = self.standing
        if standing.places.decided.exists():
            return restoring(course.node, course.certificates, standing.places)
        if standing.behind is not None:
            return left_behind()
        if standing.rest is not None:
            return resting(standing.rest.units)
        return course.steps if moving is None else self._moving(course, moving)

    def _moving(self, course: Course, moving: Moving) -> tuple[Step, ...]:
        """Return the steps of a node whose datastore is being moved."""
        from firstboot.moving.course import placing, trying

        places = self.standing.places
        if not moving.placed:
            self._tried = None
            return placing(places, self.answers.described)
        self._tried = self._tried or time.monotonic()
        age, probe = time.monotonic() - self._tried, course.wanted.services[0].probe
        return trying(moving, course.node, course.steps, probe, places, age)

    async def _left_behind(self, course: Course) -> LeftBehind | None:
        """Return whether the cluster goes on without this machine; a recovery of it makes it a cluster again.

        While the datastore is moved its authority is not the same everywhere, and nobody is out for that.
        """
        places = self.standing.places
        if places.decided.exists() or places.moving.exists():
            return None
        return await self.fence.verdict(course.node, course.certificates)

    def _begin_anew(self, node: Node, addresses: Sequence[str]) -> Course:
        """Forget what was seen of the node before its restore: it starts as if for the first time."""
        course = Course.of(node, self.standing.memory, addresses)
        self.standing.course, self.standing.was_ready = course, False
        self.account.observer = Observer()
        self.standing.memory.applied.forget()
        return course

    async def pause(self) -> None:
        """Wait until another round may find something to do: time has passed, or what this one waited for is there."""
        standing = self.standing
        loop = asyncio.get_running_loop()
        end = loop.time() + (CALM if self._waits or standing.current.phase.settled else HURRY)
        while (left := end - loop.time()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(standing.wake.wait(), min(left, PEEK) if self._waits else left)
                return
            if self._waits and await moved(self._waits, Machine(self._systemd, standing.client, self._units)):
                return

    async def _machine(self, verdicts: Verdicts) -> Machine:
        units = await self._systemd.units((*UNITS, TIME_UNIT))
        return Machine(self._systemd, self.standing.client, units, verdicts)


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
