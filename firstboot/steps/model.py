# SPDX-License-Identifier: Apache-2.0
"""What all steps share: check says what is missing, apply does it, both at any time and often."""

from __future__ import annotations

from collections.abc import Mapping
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
class Machine:
    """The node as steps see and change it during one pass: each probe is asked once a pass.

    units: state of the image's services at the start of the pass
    """

    systemd: Systemd
    client: Client
    units: Mapping[str, Unit]
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

    async def check(self, machine: Machine) -> Finding | None:
        """Return what is missing, or None when all is as it should be."""
        ...

    async def apply(self, machine: Machine) -> None:
        """Do what check found missing; raises BasaltError."""
        ...
