# SPDX-License-Identifier: Apache-2.0
"""Whether the clocks of a cluster agree: certificates and tokens of a node that is hours ahead are refused elsewhere.

A worker compares its clock with the time that API servers give with every answer. A control plane asks its own, which
has the same clock, and looks at the heartbeats of all nodes instead: one from the future was made by a clock ahead of
its own. So of two clocks that differ at least one node tells, whichever is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from firstboot.codes import Code
from firstboot.config import Role
from firstboot.failure import Failure
from firstboot.kube import Client, KubeError

TOLERANCE = 60.0
"""Seconds by which two clocks may differ before somebody should know."""

EVERY = 60.0
"""Seconds between two looks at heartbeats."""

HEARTBEATS = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases?resourceVersion=0"
"""As the API server has them in memory: its datastore is not asked."""

SERVERS = "basalt.time.servers"
REMEDY = "Name time servers that both reach, or set the wrong clock: certificates and tokens are valid by it."


def apart(seconds: float, whose: str, path: str = SERVERS, remedy: str = REMEDY) -> Failure:
    """Return what to tell of this node's clock; seconds: that it is ahead of the other one, less than 0 behind."""
    side = "behind" if seconds < 0 else "ahead of"
    found = f"the clock of this node is {abs(seconds):.0f} seconds {side} that of {whose}"
    return Failure(Code.CLOCKS_APART, path, found, remedy)


@dataclass
class Clocks:
    """What a node knows of others' clocks; failures: those that are apart from its own."""

    client: Client
    now: Callable[[], float] = time.time
    failures: tuple[Failure, ...] = ()
    _due: float = 0.0

    async def look(self, role: Role) -> None:
        """Compare, call it again and again; while nobody answers, what is known stays."""
        if not role.has_control_plane:
            ahead = self.client.ahead
            self.failures = (apart(ahead, "the control plane"),) if abs(ahead) > TOLERANCE else ()
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + EVERY
            with suppress(KubeError):
                found = await self.client.get(HEARTBEATS)
                self.failures = tuple(self._ahead(found["items"]))

    def _ahead(self, heartbeats: list[Any]) -> Iterator[Failure]:
        for each in heartbeats:
            if renewed := each["spec"].get("renewTime"):
                seconds = datetime.fromisoformat(renewed).timestamp() - self.now()
                if seconds > TOLERANCE:
                    yield apart(-seconds, each["metadata"]["name"])
