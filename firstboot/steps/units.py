# SPDX-License-Identifier: Apache-2.0
"""Services of the image: running with the inputs of now, or stopped when nothing asks for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from firstboot.services.model import Service
from firstboot.steps.model import Finding, Machine
from firstboot.systemd import Unit, revision_of

API_SERVER = "kube-apiserver"
DATASTORES = ("k8s-dqlite", "etcd")
RESTING = ("inactive", "failed")


@dataclass(frozen=True)
class Running:
    """The service runs, and its process was started with today's inputs."""

    service: Service
    needs: tuple[str, ...] = ()
    lasts: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """``unit:`` and the unit's name."""
        return f"unit:{self.service.unit}"

    async def check(self, machine: Machine) -> Finding | None:
        """Compare the process's own environment with the wanted revision: no other record can be wrong."""
        name = self.service.unit
        unit = machine.units.get(name)
        if unit and unit.active == "deactivating":
            return Finding(f"{name}.service", "wait", "is stopping")
        if unit is None:
            return Finding(f"{name}.service", "start", "is unknown")
        if not unit.running:
            # Each start that does nothing ends a job, and with it the agent's rest: it would ask for ever.
            if await machine.systemd.unfit(unit):
                return None
            return Finding(f"{name}.service", "start", f"is {unit.active}")
        pid = await machine.systemd.main_pid(unit)
        found = revision_of(pid)
        # A process that systemd has forked and not yet turned into the service has systemd's own environment.
        if pid == 0 or found == self.service.revision or (found is None and not unit.up):
            return None
        return Finding(f"{name}.service", "restart", "runs with other inputs")

    async def apply(self, machine: Machine) -> None:
        """Queue the job; whether it came up is for the probe to say."""
        unit = machine.units.get(self.service.unit)
        if unit and unit.running:
            await machine.systemd.restart(self.service.unit)
        else:
            await machine.systemd.start(self.service.unit)


@dataclass(frozen=True)
class Stopped:
    """The service does not run.

    reason: why, in one line
    after:  units that have to rest before it is stopped
    """

    unit: str
    reason: str = "the document does not ask for it"
    after: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    lasts: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """``stopped:`` and the unit's name."""
        return f"stopped:{self.unit}"

    async def check(self, machine: Machine) -> Finding | None:
        """Look whether it runs."""
        unit = machine.units.get(self.unit)
        if unit is None or not unit.running:
            return None
        if first := next(busy(self.after, machine.units), None):
            return Finding(f"{self.unit}.service", "wait", f"{first} stops first")
        return Finding(f"{self.unit}.service", "stop", self.reason)

    async def apply(self, machine: Machine) -> None:
        """Queue the stop."""
        await machine.systemd.stop(self.unit)


def stopped(units: Sequence[str], reason: str) -> tuple[Stopped, ...]:
    """Return the steps that stop units: an API server before the datastore, without which it would wait in vain."""
    last = DATASTORES if API_SERVER in units else ()
    return tuple(Stopped(unit, reason, (API_SERVER,) if unit in last else ()) for unit in units)


def busy(names: Iterable[str], units: Mapping[str, Unit]) -> Iterator[str]:
    """Return those of the names whose units do not rest yet; units: as systemd knows them, by name."""
    return (name for name in names if name in units and units[name].active not in RESTING)
