# SPDX-License-Identifier: Apache-2.0
"""Gates: what must work before others may start. They do nothing; they open by themselves."""

from __future__ import annotations

from dataclasses import dataclass

from firstboot.probes import Probe
from firstboot.steps.model import Finding, Machine


@dataclass(frozen=True)
class Gate:
    """Open when the probe says that the thing works.

    once: a gate of a unit (None for other things) is not asked before the unit has started
    """

    name: str
    probe: Probe
    unit: str | None = None
    needs: tuple[str, ...] = ()

    async def check(self, machine: Machine) -> Finding | None:
        """Ask the probe, but not a service that is known to be down."""
        if self.unit and (reason := _down(machine, self.unit)):
            return Finding(self.name, "wait", reason)
        reason = await machine.ask(self.probe)
        return Finding(self.name, "wait", reason) if reason else None

    async def apply(self, machine: Machine) -> None:
        """Nothing to do but look again."""


def _down(machine: Machine, name: str) -> str | None:
    unit = machine.units.get(name)
    return None if unit and unit.up else f"{name}.service is {unit.active if unit else 'unknown'}"
