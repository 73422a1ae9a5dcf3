# SPDX-License-Identifier: Apache-2.0
"""Addresses of Services are taken back when nobody gives them any more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from firstboot.kube import KubeError, Object
from firstboot.loadbalancer import objects
from firstboot.loadbalancer.objects import SERVICES, Service
from firstboot.loadbalancer.writer import NOT_NOW, write
from firstboot.steps.model import Finding, Machine
from firstboot.steps.objects import Applied

MARK: Object = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "balanced"}}
"""Stands for all of them in what is remembered."""


@dataclass(frozen=True)
class Released:
    """No Service has an address of the feature load-balancer in its status; those of other balancers stay.

    Each control plane sees to it once its own service has stopped: the last to stop leaves none behind.
    """

    applied: Applied = field(compare=False, hash=False)
    unit: str = "load-balancer"
    needs: tuple[str, ...] = ("apiserver",)
    lasts: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """``released:`` and the unit's name."""
        return f"released:{self.unit}"

    async def check(self, machine: Machine) -> Finding | None:
        """Look at all Services, every few minutes."""
        unit = machine.units.get(self.unit)
        if unit is not None and unit.running:
            return Finding(f"{self.unit}.service", "wait", "stops first")
        if self.applied.gone(MARK):
            return None
        if left := [service.key for service in _left(await machine.client.get(SERVICES))]:
            return Finding(", ".join(left), "release", "nothing gives addresses any more")
        self.applied.note_gone(MARK)
        return None

    async def apply(self, machine: Machine) -> None:
        """Take them out."""
        for service in _left(await machine.client.get(SERVICES)):
            try:
                await write(machine.client, service, ())
            except KubeError as error:
                # Somebody else has changed or removed it: the next look tells.
                if error.status not in NOT_NOW:
                    raise


def _left(found: Any) -> Iterator[Service]:
    for obj in found["items"]:
        if objects.written_by_us(obj) and (service := objects.service(obj)) is not None:
            yield service
