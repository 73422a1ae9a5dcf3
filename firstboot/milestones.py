# SPDX-License-Identifier: Apache-2.0
"""When what was reached, in seconds since the kernel started; kept across restarts of the agent."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def since_kernel_start() -> float:
    """Return the seconds since the kernel started, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Milestones:
    """Each milestone is taken once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reached: dict[str, float] = {}
        with suppress(OSError, ValueError, TypeError):
            self._reached = {str(k): float(v) for k, v in json.loads(path.read_text()).items()}

    @property
    def reached(self) -> Mapping[str, float]:
        """Milestone -> seconds, in the order reached."""
        return self._reached

    def mark(self, name: str) -> None:
        """Take the time unless it was taken before."""
        if name in self._reached:
            return
        self._reached[name] = round(since_kernel_start(), 2)
        # Below /run: it is lost with the boot it is about, so it need not be forced to disk.
        self._path.write_text(json.dumps(self._reached))
