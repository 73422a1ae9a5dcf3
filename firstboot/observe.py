# SPDX-License-Identifier: Apache-2.0
"""From what units and probes say to the states that the status document shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from firstboot.codes import Code
from firstboot.failure import Failure
from firstboot.features.model import Feature
from firstboot.probes import Probe, Telling
from firstboot.report.status import Part, Phase, State
from firstboot.steps.model import Machine

CODES = {State.DEGRADED: Code.COMPONENT_DEGRADED, State.FAILED: Code.COMPONENT_FAILED}

PATIENCE = 300.0
"""Seconds a service may take to work for the first time before it counts as failed."""


@dataclass
class History:
    """What the agent remembers of one unit: since when it was wanted, and whether it has ever worked."""

    since: float
    worked: bool = False


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
        if reason is None:
            history.worked = True
            return Part(State.HEALTHY, detail)
        return Part(self._state(history), reason)

    def forget(self, wanted: Iterable[str]) -> None:
        """Drop the history of units that are not wanted any more."""
        keep = set(wanted)
        self._history = {unit: history for unit, history in self._history.items() if unit in keep}

    def _state(self, history: History) -> State:
        if history.worked:
            return State.DEGRADED
        return State.STARTING if self.clock() - history.since < PATIENCE else State.FAILED

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

    One whose services all work says what they have to say.
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


def phase(parts: Iterable[Part], was_ready: bool) -> Phase:
    """Return the phase of a node that has a valid document."""
    states = [part.state for part in parts]
    if all(state.ok for state in states):
        return Phase.READY
    failed = State.FAILED in states
    return Phase.DEGRADED if was_ready or failed else Phase.STARTING


def failures(parts: Mapping[str, Part]) -> tuple[Failure, ...]:
    """Return a failure for each part that somebody should look at."""
    return tuple(
        Failure(
            CODES[part.state],
            name,
            part.detail,
            f"It is started again by itself; `basalt logs {name}` shows what it says.",
        )
        for name, part in parts.items()
        if part.state in CODES
    )
