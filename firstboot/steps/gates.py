# SPDX-License-Identifier: Apache-2.0
"""Gates: what must work before others may start. They do nothing; they open by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from firstboot.probes import Probe
from firstboot.steps.model import Finding, Machine


@dataclass(frozen=True)
class Gate:
    """Open when the unit has started, if it is a unit's, and the probe, if there is one, says that it works."""

    name: str
    probe: Probe | None = None
    unit: str | None = None
    needs: tuple[str, ...] = ()
    lasts: ClassVar[bool] = False

    async def check(self, machine: Machine) -> Finding | None:
        """Ask the probe, but not a service that is known to be down."""
        if self.unit and (reason := _down(machine, self.unit)):
            return Finding(self.name, "wait", reason)
        reason = await machine.ask(self.probe) if self.probe else None
        return Finding(self.name, "wait", reason) if reason else None

    async def apply(self, machine: Machine) -> None:
        """Nothing to do but look again."""


def _down(machine: Machine, name: str) -> str | None:
    unit = machine.units.get(name)
    return None if unit and unit.up else f"{name}.service is {unit.active if unit else 'unknown'}"
