# SPDX-License-Identifier: Apache-2.0
"""What all steps share: check says what is missing, apply does it, both at any time and often."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from firstboot.kube import Client
from firstboot.probes import Probe
from firstboot.systemd import Systemd, Unit


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    path:    the file, unit or object
    action:  what apply will do, e.g. ``write``, ``start``; ``wait`` where only time helps
    reason:  why, in one line
    """

    path: str
    action: str
    reason: str

    @property
    def waits(self) -> bool:
        """Whether there is nothing to do but look again."""
        return self.action == "wait"


@dataclass
class Verdicts:
    """Steps that were found done a moment ago, by name; passes follow each other faster than files change.

    seconds:    how long such a verdict holds
    unanswered: steps that got no answer in the last pass
    """

    seconds: float = 5.0
    clock: Callable[[], float] = time.monotonic
    unanswered: set[str] = field(default_factory=set)
    _found: dict[str, float] = field(default_factory=dict)

    def holds(self, name: str) -> bool:
        """Whether the step of that name need not be looked at."""
        found = self._found.get(name)
        return found is not None and self.clock() - found < self.seconds

    def forget(self, name: str) -> None:
        """Have the step of that name looked at in the next pass: somebody has just given it something to do."""
        self._found.pop(name, None)

    def note(self, step: Step) -> None:
        """Remember that it was found done now, if it is one whose verdict lasts."""
        if step.lasts:
            self._found[step.name] = self.clock()


@dataclass
class Machine:
    """The node as steps see and change it during one pass: each probe is asked once a pass.

    units: state of the image's services at the start of the pass
    """

    systemd: Systemd
    client: Client
    units: Mapping[str, Unit]
    verdicts: Verdicts = field(default_factory=Verdicts)
    _answers: dict[Probe, str | None] = field(default_factory=dict)

    async def ask(self, probe: Probe) -> str | None:
        """Return the probe's answer: None when the service works."""
        if probe not in self._answers:
            self._answers[probe] = await probe(self.client)
        return self._answers[probe]


class Step(Protocol):
    """One unit of work."""

    @property
    def name(self) -> str:
        """Unique in a plan; what other steps name in their needs."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Steps that must be done before this one is looked at."""
        ...

    @property
    def lasts(self) -> bool:
        """Whether what is done stays so unless somebody interferes, which may be noticed some seconds later."""
        ...

    async def check(self, machine: Machine) -> Finding | None:
        """Return what is missing, or None when all is as it should be."""
        ...

    async def apply(self, machine: Machine) -> None:
        """Do what check found missing; raises BasaltError."""
        ...
