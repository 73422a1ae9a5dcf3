# SPDX-License-Identifier: Apache-2.0
"""etcd's learners: members that have caught up get their vote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from firstboot.datastores import etcd
from firstboot.kube import KubeError
from firstboot.steps.model import Finding, Machine


@dataclass(frozen=True)
class Learners:
    """No member that runs is a learner for longer than it takes to catch up."""

    name: str = "learners"
    needs: tuple[str, ...] = ("apiserver",)
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Look for one that has started."""
        found = await self._found(machine)
        return Finding(f"etcd/{found['name']}", "promote", "is a learner") if found else None

    async def apply(self, machine: Machine) -> None:
        """Ask for its vote; etcd refuses until it has caught up."""
        try:
            if found := await self._found(machine):
                await etcd.members(machine.client, "promote", ID=found["ID"])
        except KubeError as error:
            if "in sync" not in str(error):
                raise

    async def _found(self, machine: Machine) -> dict[str, Any] | None:
        members = await etcd.members(machine.client)
        return next((each for each in members if each.get("isLearner") and each.get("name")), None)
