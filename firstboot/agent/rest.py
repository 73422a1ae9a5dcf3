# SPDX-License-Identifier: Apache-2.0
"""Units that are stopped for a while: the datastore while its data is looked at, or what uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from firstboot.failure import BasaltError
from firstboot.steps.units import RESTING
from firstboot.systemd import Unit

REST_SECONDS = 120.0
"""Within how many seconds the datastore has to stop."""


@dataclass
class Rest:
    """That units have to be stopped; begun: they are, busy: those that are not."""

    units: tuple[str, ...]
    busy: tuple[str, ...] = ()
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    def look(self, units: Mapping[str, Unit]) -> None:
        """Note whether it has begun."""
        self.busy = tuple(each for each in self.units if units[each].active not in RESTING)
        if not self.busy:
            self.begun.set()

    async def wait(self) -> None:
        """Wait until it has begun. Raises BasaltError for a unit that does not stop."""
        try:
            await asyncio.wait_for(self.begun.wait(), REST_SECONDS)
        except TimeoutError:
            unit = next(iter(self.busy), self.units[-1])
            raise BasaltError(f"{unit} does not stop", f"See `basalt logs {unit}`.") from None
