# SPDX-License-Identifier: Apache-2.0
"""The node notices whether its cluster has network policies: only then it runs what enforces them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from firstboot import files
from firstboot.cluster.noticed import Noticed
from firstboot.report.status import now
from firstboot.services.model import Node
from firstboot.steps.model import Finding, Machine

ONE = "/apis/networking.k8s.io/v1/networkpolicies?limit=1"


@dataclass(frozen=True)
class NoticePolicies:
    """The record says whether there are policies that the node has to enforce, which the next round follows.

    It asks for one every few seconds. A watch would tell at once, and cost each node a connection and some memory for
    what most clusters never have.
    """

    node: Node
    record: Path
    name: str = "policies"
    needs: tuple[str, ...] = ("apiserver",)
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Compare the API with the record."""
        there, known = await self._are_there(machine), self.record.exists()
        if there is known:
            return None
        if there:
            return Finding(str(self.record), "write", "the cluster has network policies")
        return Finding(str(self.record), "remove", "there are no network policies to enforce")

    async def apply(self, machine: Machine) -> None:
        """Write the record, or remove it."""
        if await self._are_there(machine):
            await asyncio.to_thread(Noticed(now()).save, self.record)
        else:
            await asyncio.to_thread(files.remove, self.record)

    async def _are_there(self, machine: Machine) -> bool:
        if not self.node.config.features.network.enabled:
            return False
        return bool((await machine.client.get(ONE) or {}).get("items"))
