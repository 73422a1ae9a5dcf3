# SPDX-License-Identifier: Apache-2.0
"""The gate in front of an API server whose datastore somebody else runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from firstboot.steps.model import Finding, Machine

if TYPE_CHECKING:
    from firstboot.datastores.watch import Watch


@dataclass(frozen=True)
class Claim:
    """The datastore works and has this cluster's data, or none yet, which the cluster's first control plane claims."""

    watch: Watch = field(repr=False)
    name: str = "datastore"
    needs: tuple[str, ...] = ("certificates", "files:datastore")
    lasts: ClassVar[bool] = False

    async def check(self, machine: Machine) -> Finding | None:
        """Ask it; nothing is written."""
        reason = await machine.ask(self.watch)
        if self.watch.claimable:
            return Finding(self.watch.external.prefix, "claim", "nothing is stored there yet")
        if reason is not None:
            return Finding(self.name, "wait", reason)
        if await asyncio.to_thread(lambda: self.watch.outdated):
            return Finding(self.watch.external.prefix, "claim", "it is claimed by the cluster's CA before")
        if not await asyncio.to_thread(lambda: self.watch.remembered):
            return Finding(str(self.watch.record), "write", "the datastore has this cluster's data")
        return None

    async def apply(self, machine: Machine) -> None:
        """Claim the prefix, or remember that it was."""
        await self.watch.claim()
