# SPDX-License-Identifier: Apache-2.0
"""From what units and probes say to the states that the status document shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from firstboot.codes import Code
from firstboot.failure import Failure
from firstboot.features.model import Feature
from firstboot.probes import Lack, Probe, Telling
from firstboot.report.status import Part, Phase, State
from firstboot.steps.model import Machine

CODES = {State.DEGRADED: Code.COMPONENT_DEGRADED, State.FAILED: Code.COMPONENT_FAILED}

PATIENCE = 300.0
"""Seconds a service may take to work for the first time before it counts as failed."""

LACK_PATIENCE = 60.0
"""Seconds that one may lack something from the first time that it says so before it counts as degraded.

It is never failed: it does what it can, and to start it anew would not help.
"""


@dataclass
class History:
    """What the agent remembers of one unit.

    since: when it was wanted; worked: whether it ever has; lacking: since when it says that it lacks something
    """

    since: float
    worked: bool = False
    lacking: float | None = None


@dataclass
class Observer:
    """Turns answers into states. The clock is a parameter so that tests need not wait."""

    clock: Callable[[], float] = time.monotonic
    _history: dict[str, History] = field(default_factory=dict)

    async def part(self, machine: Machine, unit: str, probe: Probe) -> Part:
        """Return how a unit stands; its probe is asked only when it has started."""
        reason = await self._reason(machine, unit, probe)
        return self.judged(unit, reason, probe.detail if isinstance(probe, Telling) else "")

    def judged(self, name: str, reason: str | None, detail: str = "") -> Part:
        """Return how a part stands that does not work for a reason, or works without one.

        detail: what to say of one that works
        """
        history = self._history.setdefault(name, History(self.clock()))
        if not isinstance(reason, Lack):
            history.lacking = None
        elif history.lacking is None:
            history.lacking = self.clock()
        if reason is None:
            history.worked = True
            return Part(State.HEALTHY, detail)
        return Part(self._state(history), reason)

    def failures(self, parts: Mapping[str, Part]) -> tuple[Failure, ...]:
        """Return a failure for each part that somebody should look at."""
        return tuple(
            Failure(CODES[part.state], name, part.detail, self._remedy(name))
            for name, part in parts.items()
            if part.state in CODES
        )

    def forget(self, wanted: Iterable[str]) -> None:
        """Drop the history of units that are not wanted any more."""
        keep = set(wanted)
        self._history = {unit: history for unit, history in self._history.items() if unit in keep}

    @property
    def lacking(self) -> bool:
        """Whether a part waits for something from outside, and has for so long that somebody should know."""
        return any(map(self._lacks, self._history.values()))

    def _lacks(self, history: History) -> bool:
        return history.lacking is not None and self.clock() - history.lacking >= LACK_PATIENCE

    def _state(self, history: History) -> State:
        if history.worked:
            return State.DEGRADED
        if history.lacking is not None:
            return State.DEGRADED if self._lacks(history) else State.STARTING
        return State.STARTING if self.clock() - history.since < PATIENCE else State.FAILED

    def _remedy(self, name: str) -> str:
        history = self._history.get(name)
        if history is not None and history.lacking is not None:
            return f"It goes on by itself once that is mended; `basalt logs {name}` shows more."
        return f"It is started again by itself; `basalt logs {name}` shows what it says."

    async def _reason(self, machine: Machine, unit: str, probe: Probe) -> str | None:
        known = machine.units.get(unit)
        if known is None or not known.running:
            return f"{unit}.service is {known.active if known else 'unknown'}"
        if known.sub == "auto-restart":
            return f"{unit}.service has ended and is about to be started again"
        if not known.up:
            return "is starting"
        return await machine.ask(probe)


def feature_part(feature: Feature, parts: Mapping[str, Part]) -> Part:
    """Return a feature's state: that of the worst of its services, whose name leads the detail.

    Of one that works the detail is what its services have to say.
    """
    if not feature.enabled:
        return Part(State.OFF)
    order = (State.FAILED, State.DEGRADED, State.STARTING)
    for state in order:
        for service in feature.services:
            part = parts[service.unit]
            if part.state is state:
                return Part(state, f"{service.unit}: {part.detail}")
    details = (parts[service.unit].detail for service in feature.services)
    return Part(State.HEALTHY, "; ".join(filter(None, details)))


def phase(parts: Iterable[Part], was_ready: bool, lacking: bool = False) -> Phase:
    """Return the phase of a node that has a valid document: starting as long as it may be Ready without help."""
    states = [part.state for part in parts]
    if all(state.ok for state in states):
        return Phase.READY
    failed = State.FAILED in states
    return Phase.DEGRADED if was_ready or failed or lacking else Phase.STARTING
