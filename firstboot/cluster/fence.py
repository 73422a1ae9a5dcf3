# SPDX-License-Identifier: Apache-2.0
"""Control planes that a recovery has left behind do not run: each asks the others before it starts its datastore.

Where a cluster goes on with one member of three, the other two still are a majority to each other. Nothing on them
tells them that they are out; only who goes on can. What he says is on disk from then on, and not asked again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from firstboot.codes import Code
from firstboot.failure import BasaltError, Failure
from firstboot.pki.catalogue import Catalogue
from firstboot.record import Record
from firstboot.services.model import Node

log = logging.getLogger(__name__)

SOON, LATER = 10.0, 60.0
"""Seconds until one is asked again who did not answer, and one who did: he may be recovered later."""
PATIENCE = 6.0
"""Seconds for which the first answers are waited for before anything is started; who is off costs a start as long."""

Ask = Callable[[Node, Catalogue, str], str]
"""Asks the control plane on a host since when the cluster goes on without this one; raises BasaltError."""


@dataclass(frozen=True)
class LeftBehind(Record):
    """The cluster goes on without this machine; host: who said so, since: of the recovery (RFC 3339, UTC)."""

    host: str
    since: str

    REMEDY = "Reset the node."

    @classmethod
    def read(cls, data: Any) -> LeftBehind:
        """Return the record of JSON data."""
        return cls(str(data["host"]), str(data["since"]))

    @property
    def failure(self) -> Failure:
        """What the status says about it."""
        found = f"the cluster was recovered without this machine on {self.since}, as {self.host} says"
        remedy = (
            "It runs nothing any more. `basalt reset --yes` here and `basalt remove-node` for it there; "
            "then it joins anew by a document with a token and without `bootstrap`."
        )
        return Failure(Code.LEFT_BEHIND, "basalt.cluster", found, remedy)


def _ask(node: Node, certificates: Catalogue, host: str) -> str:
    from firstboot.cluster import joining

    return joining.standing(node, certificates, host)


@dataclass
class Fence:
    """One control plane's; record: where it is written that it is out."""

    record: Path
    ask: Ask = _ask
    clock: Callable[[], float] = time.monotonic
    patience: float = PATIENCE
    _due: dict[str, float] = field(default_factory=dict)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def verdict(self, node: Node, certificates: Catalogue) -> LeftBehind | None:
        """Return whether the machine is out, as far as is known; ask those who are due. Call it again and again.

        Where somebody else runs the datastore nobody is: there is no member here that could be part of a majority.
        """
        others = [host for host in node.control_planes if host != node.ip]
        config = node.config
        if not (others and config.role.has_control_plane and config.datastore.type.is_ours):
            return None
        if (known := LeftBehind.load(self.record)) is not None:
            return known
        first = not self._due
        for host in others:
            if host not in self._tasks and self.clock() >= self._due.get(host, 0.0):
                self._due[host] = self.clock() + SOON
                self._tasks[host] = asyncio.create_task(self._asked(node, certificates, host))
        if first:
            await asyncio.wait(self._tasks.values(), timeout=self.patience)
        return LeftBehind.load(self.record)

    async def _asked(self, node: Node, certificates: Catalogue, host: str) -> None:
        try:
            since = await asyncio.to_thread(self.ask, node, certificates, host)
        except (BasaltError, OSError) as error:
            log.debug("%s does not say whether the cluster goes on without this machine: %s", host, error)
            return
        finally:
            del self._tasks[host]
        if not since:
            self._due[host] = self.clock() + LATER
            return
        log.error("the cluster was recovered without this machine on %s, as %s says", since, host)
        try:
            LeftBehind(host, since).save(self.record)
        except BasaltError as error:
            # It is asked again soon, and written then.
            log.error("%s", error)
