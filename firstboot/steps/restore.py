# SPDX-License-Identifier: Apache-2.0
"""The end of a restore that was decided: the node's authorities and its datastore become those of the backup.

A recovery ends the same way, with what the node had itself; then the others are no partners any more.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from firstboot import files
from firstboot.backup.places import Decided, Places, exchange
from firstboot.cluster.membership import Membership
from firstboot.pki import handover
from firstboot.pki.catalogue import Catalogue
from firstboot.steps.model import Finding, Machine
from firstboot.steps.units import busy


@dataclass(frozen=True)
class Restore:
    """No restore is left undone. It goes through the same motions however often it was cut off before.

    units:  all that may hold the old authorities or data; they are stopped, and stay so until this is done
    folder: of the datastore
    """

    units: tuple[str, ...]
    catalogue: Catalogue = field(repr=False)
    folder: Path
    places: Places
    name: str = "restore"
    needs: tuple[str, ...] = ()
    lasts: ClassVar[bool] = False

    async def check(self, machine: Machine) -> Finding | None:
        """Look for the record, and whether everything rests."""
        decided = await asyncio.to_thread(Decided.load, self.places.decided)
        if decided is None:
            return None
        if unit := next(busy(self.units, machine.units), None):
            return Finding(f"{unit}.service", "wait", "is stopping")
        what = (
            "it goes on with this member alone"
            if decided.alone
            else f"a backup of {decided.created} is restored"
        )
        return Finding(str(self.folder), "exchange", what)

    async def apply(self, machine: Machine) -> None:
        """Put the backup's data and keys in their places, remove the record, and then what the node was before."""
        await asyncio.to_thread(self._finish)

    def _finish(self) -> None:
        decided = Decided.load(self.places.decided)
        if decided is None:
            return
        exchange(self.folder)
        files.write_all(handover.take(self.catalogue, decided.pki))
        # Signed by authorities that are no more: the step that looks after certificates makes new ones.
        for spec in self.catalogue.certificates:
            files.remove(spec.certificate)
        if decided.alone:
            self._part(decided.alone)
        else:
            # Which CA is on its way, and how far, the cluster of the backup tells.
            files.remove(self.places.rotation)
            files.remove(self.catalogue.certificate("agent").ca.beside)
        files.remove(self.places.decided)
        self.places.sweep()

    def _part(self, alone: str) -> None:
        """Forget the others: that these have left this node behind, and that one of them moves the datastore."""
        membership = Membership.load(self.places.membership)
        if membership is not None:
            replace(membership, control_planes=(alone,), peers=()).save(self.places.membership)
        for record in (self.places.left_behind, self.places.moving):
            files.remove(record)
