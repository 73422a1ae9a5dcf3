# SPDX-License-Identifier: Apache-2.0
"""Where the control planes are: they come and go, and a node has to find them again after any restart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from firstboot.cluster import records
from firstboot.cluster.membership import Membership
from firstboot.config import Role
from firstboot.kube import Client
from firstboot.steps.model import Finding, Machine

REGISTERED = f"/api/v1/nodes?labelSelector={records.ROLE_LABEL}"

Source = Callable[[Client], Awaitable[tuple[str, ...]]]


@dataclass(frozen=True)
class ControlPlanes:
    """The record of membership names every control plane of the cluster."""

    known: tuple[str, ...]
    membership: Path = field(compare=False)
    source: Source = field(compare=False)
    name: str = "control-planes"
    needs: tuple[str, ...] = ("apiserver",)
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Compare; an empty list says that somebody removed objects, not that nobody is left."""
        found = await self.source(machine.client)
        if not found or found == self.known:
            return None
        return Finding(str(self.membership), "write", f"the control planes are {', '.join(found)}")

    async def apply(self, machine: Machine) -> None:
        """Write it; the next look at the document takes it up."""
        record = Membership.load(self.membership)
        if record is not None and (found := await self.source(machine.client)):
            replace(record, control_planes=found).save(self.membership)


async def registered(client: Client) -> tuple[str, ...]:
    """Return the addresses of control planes as workers may see them: those that are nodes."""
    nodes = (await client.get(REGISTERED))["items"]
    return tuple(sorted(filter(None, map(records.internal_address, nodes))))


async def admitted(client: Client) -> tuple[str, ...]:
    """Return the addresses of control planes as they see each other: those that were let in."""
    return tuple(
        sorted(each.ip for each in await records.machines(client) if each.role == Role.CONTROL_PLANE)
    )
