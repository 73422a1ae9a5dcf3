# SPDX-License-Identifier: Apache-2.0
"""When a machine that wants into a cluster tries, and what its status says between two attempts."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from firstboot.codes import Code
from firstboot.config import Config
from firstboot.failure import BasaltError, DocumentError, Failure
from firstboot.pki.catalogue import Catalogue, catalogue
from firstboot.services.model import Node

log = logging.getLogger(__name__)

SOON, LATER = 3.0, 15.0
"""Seconds until the next attempt when nobody answered, and when somebody said no: only people change that."""


@dataclass
class Joiner:
    """One machine's attempts, each in a task of its own: a control plane may take long to answer.

    failures: why the last one failed; empty before the first
    """

    clock: Callable[[], float] = time.monotonic
    failures: tuple[Failure, ...] = ()
    _node: Node | None = None
    _task: asyncio.Task[None] | None = None
    _due: float = 0.0

    def follow(self, node: Node, membership: Path, kubernetes: str, done: Callable[[], None]) -> None:
        """Begin an attempt if it is time to; a changed document is tried at once.

        membership: where to record it, kubernetes: version in this image, done: called after the attempt
        """
        if self._task is not None and not self._task.done():
            return
        if node == self._node and self.clock() < self._due:
            return
        self._node = node
        self._task = asyncio.create_task(self._attempt(node, membership, kubernetes))
        self._task.add_done_callback(lambda _: done())

    async def _attempt(self, node: Node, membership: Path, kubernetes: str) -> None:
        failures = await self._join(node, membership, kubernetes)
        if failures and failures != self.failures:
            log.warning("cannot join: %s", "; ".join(map(str, failures)))
        self.failures = failures
        waits = any(failure.code in (Code.CLUSTER_UNREACHABLE, Code.JOIN_WAITS) for failure in failures)
        # A rack that comes up after a power cut shall not ask in step.
        self._due = self.clock() + (SOON if waits else LATER) * random.uniform(0.8, 1.2)

    async def _join(self, node: Node, membership: Path, kubernetes: str) -> tuple[Failure, ...]:
        from firstboot.cluster import joining

        def describe(config: Config) -> Catalogue:
            return catalogue(config, node.name, [node.ip])

        try:
            record = await asyncio.to_thread(joining.join, node, describe, kubernetes)
            await asyncio.to_thread(record.save, membership)
        except DocumentError as error:
            return error.failures
        except BasaltError as error:
            remedy = (
                error.hint or "It is tried again by itself; `basalt logs basalt` on both nodes says more."
            )
            return (Failure(Code.JOIN_FAILED, "basalt.cluster", str(error), remedy),)
        log.info("joined the cluster; its control planes are %s", ", ".join(record.control_planes))
        return ()
