# SPDX-License-Identifier: Apache-2.0
"""Where the control planes are: they come and go, and a worker has to find them again after any restart."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from firstboot.cluster.membership import Membership
from firstboot.steps.model import Finding, Machine

CONTROL_PLANES = "/api/v1/nodes?labelSelector=node-role.kubernetes.io/control-plane"


@dataclass(frozen=True)
class ControlPlanes:
    """The record of membership names every control plane that is a node of the cluster."""

    known: tuple[str, ...]
    membership: Path = field(compare=False)
    name: str = "control-planes"
    needs: tuple[str, ...] = ("apiserver",)
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Compare with the Node objects; an empty list says that somebody removed labels, not that nobody is left."""
        found = await self._found(machine)
        if not found or found == self.known:
            return None
        return Finding(str(self.membership), "write", f"the control planes are {', '.join(found)}")

    async def apply(self, machine: Machine) -> None:
        """Write it; the next look at the document takes it up."""
        record = Membership.load(self.membership)
        if record is not None and (found := await self._found(machine)):
            replace(record, control_planes=found).save(self.membership)

    async def _found(self, machine: Machine) -> tuple[str, ...]:
        nodes = (await machine.client.get(CONTROL_PLANES))["items"]
        return tuple(sorted(address for node in nodes for address in _internal(node)))


def _internal(node: Any) -> list[str]:
    addresses = node.get("status", {}).get("addresses", ())
    return [str(each["address"]) for each in addresses if each["type"] == "InternalIP"][:1]
