# SPDX-License-Identifier: Apache-2.0
"""The way into an etcd that somebody else runs, as far as a control plane knows it from the others."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from firstboot.cluster import credentials
from firstboot.cluster.membership import Membership
from firstboot.steps.model import Finding, Machine


@dataclass(frozen=True)
class DatastoreCredentials:
    """The record of membership has what the control plane that started the cluster has in its document now."""

    membership: Path = field(compare=False)
    name: str = "datastore-credentials"
    needs: tuple[str, ...] = ("apiserver",)
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Compare with the Secret."""
        found = await credentials.told(machine.client)
        record = Membership.load(self.membership)
        if found is None or record is None or record.external == found:
            return None
        return Finding(str(self.membership), "write", "the way to the external etcd has changed")

    async def apply(self, machine: Machine) -> None:
        """Write it; the next look at the document takes it up."""
        record = Membership.load(self.membership)
        if record is not None and (found := await credentials.told(machine.client)):
            replace(record, external=found).save(self.membership)
