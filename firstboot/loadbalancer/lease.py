# SPDX-License-Identifier: Apache-2.0
"""A Lease of Kubernetes: one of several processes does something at a time.

Clocks of different machines are never compared: how long another holder has been silent is measured here. Who holds it
counts from before the request that renewed it, and so stops before others begin.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from firstboot.kube import Client, KubeError

DURATION, RENEWAL, ATTEMPT = 15.0, 5.0, 3.0
"""Seconds: without renewal until others take it, between renewals, between attempts to get it."""
MARGIN = 6.0
"""Seconds before its end in which the holder begins nothing any more: longer than a request may take."""
LOST = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
"""Answers that mean that somebody else was quicker, or that it is not there yet."""

log = logging.getLogger(__name__)


class Lease:
    """One candidate for a Lease that is there already."""

    def __init__(
        self, client: Client, path: str, identity: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Hold nothing yet; path: in the API, identity: unique among candidates."""
        self._client, self._path, self._identity, self._clock = client, path, identity, clock
        self._seen: tuple[Any, float] | None = None
        self._until = float("-inf")

    @property
    def held(self) -> bool:
        """Whether what is begun now is surely done by the holder."""
        return self._clock() < self._until - MARGIN

    async def acquire(self) -> None:
        """Wait until it is held."""
        while not await self._attempt():
            await asyncio.sleep(ATTEMPT)
        log.info("holds the lease now")

    async def keep(self, work: asyncio.Task[None]) -> None:
        """Renew it until it is lost, for work that has no end; what that fails with is raised."""
        while self.held:
            pause = RENEWAL if await self._attempt() else ATTEMPT
            await asyncio.wait([work], timeout=pause)
            if work.done():
                work.result()
        log.warning("has lost the lease")

    async def release(self) -> None:
        """Let go of it, so that others need not wait for its end. Raises KubeError."""
        if self._until > self._clock():
            self._until = float("-inf")
            found = await self._client.get(self._path)
            if found and found.get("spec", {}).get("holderIdentity") == self._identity:
                found["spec"] = {**found["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
                await self._client.send("PUT", self._path, found)

    async def _attempt(self) -> bool:
        """Get or renew it if that is possible; whether it was."""
        begun = self._clock()
        try:
            found = await self._client.get(self._path)
            if found is None or not self._free(found, begun):
                self._until = float("-inf")
                return False
            answer = await self._client.send("PUT", self._path, self._taken(found))
        except KubeError as error:
            if error.status not in LOST:
                log.info("%s", error)
            return False
        self._seen = answer["spec"], begun
        self._until = begun + DURATION
        return True

    def _free(self, lease: Any, now: float) -> bool:
        """Whether it is ours, nobody's, or its holder has been silent for too long."""
        spec = lease.get("spec", {})
        if self._seen is None or self._seen[0] != spec:
            self._seen = spec, now
        holder = spec.get("holderIdentity")
        return not holder or holder == self._identity or now - self._seen[1] > DURATION

    def _taken(self, lease: Any) -> Any:
        new, now = copy.deepcopy(lease), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = lease.get("spec", {})
        renewed = spec.get("holderIdentity") == self._identity
        new["spec"] = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(DURATION),
            "acquireTime": spec.get("acquireTime", now) if renewed else now,
            "renewTime": now,
            "leaseTransitions": spec.get("leaseTransitions", 0) + (not renewed),
        }
        return new
