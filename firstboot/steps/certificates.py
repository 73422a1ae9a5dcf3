# SPDX-License-Identifier: Apache-2.0
"""Keys, certificates and kubeconfigs of the node."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import ClassVar

from firstboot import pki
from firstboot.pki.catalogue import Catalogue
from firstboot.pki.verdict import Ledger
from firstboot.steps.model import Finding, Machine


@dataclass(frozen=True)
class Certificates:
    """All of the catalogue exists, fits together and is valid for long enough.

    issue: who makes certificates, None for the node itself
    """

    catalogue: Catalogue = field(repr=False)
    ledger: Ledger = field(repr=False, compare=False)
    issue: pki.Issue | None = field(default=None, repr=False, compare=False)
    name: str = "certificates"
    needs: tuple[str, ...] = ("hostname", "authorities")
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Examine what has changed since the last time."""
        # A check with nothing remembered reads every certificate, which takes as long as signing.
        found = await asyncio.to_thread(pki.check, self.catalogue, self.ledger)
        if not found:
            return None
        others = f", and {len(found) - 1} more" if len(found) > 1 else ""
        return Finding(found[0].name, "issue", f"{found[0].reason}{others}")

    async def apply(self, machine: Machine) -> None:
        """Make and renew; in a thread, because signing takes its time on slow machines."""
        await asyncio.to_thread(pki.apply, self.catalogue, self.ledger, issue=self.issue)
