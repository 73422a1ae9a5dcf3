# SPDX-License-Identifier: Apache-2.0
"""An external etcd as a part of the node: asked again and again whether it works, and whether its data is ours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from firstboot import paths
from firstboot.codes import Code
from firstboot.config import External
from firstboot.datastores import claim, endpoints
from firstboot.datastores.claim import Claimed, Data, Whose
from firstboot.datastores.endpoints import Answer
from firstboot.datastores.external import TRIED, Login
from firstboot.failure import BasaltError, Failure
from firstboot.kube import Client

ENDPOINTS_PATH = claim.ENDPOINTS_PATH

SOON, LATER = 2.0, 5.0
"""Least seconds between two looks, while something is missing and while all is well: etcd has others to serve."""
AGAIN = 300.0
"""Seconds after which is asked again whose the data is, as long as the same endpoints work."""


@dataclass(frozen=True)
class Seen:
    """A look's result; when: on the clock."""

    when: float
    answers: tuple[Answer, ...]
    data: Data | None

    @property
    def usable(self) -> tuple[str, ...]:
        """The endpoints that work."""
        return tuple(each.endpoint for each in self.answers if each.failure is None)


@dataclass(eq=False)
class Watch:
    """One node's eye on it; a probe that works when an endpoint does and the data is the cluster's.

    cluster:   its name
    founds:    whether this node may claim an empty prefix: it starts a cluster
    succeeds:  whether the cluster's CA has just taken the place of another one, under which the prefix was claimed
    authority: certificate of the cluster's CA
    record:    what the node remembers of its claim
    """

    external: External
    cluster: str
    founds: bool
    succeeds: bool = False
    login: Login = TRIED
    authority: Path = paths.PKI / "ca.crt"
    record: Path = paths.STATE / "datastore-claim.json"
    clock: Callable[[], float] = time.monotonic
    _seen: Seen | None = None
    _judged: tuple[float, tuple[str, ...]] | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def __call__(self, client: Client) -> str | None:
        """Look, unless that was done just now."""
        # The API's dry run and the agent's round may ask at the same time.
        async with self._lock:
            wait = LATER if self.reason is None else SOON
            if self._seen is None or self.clock() - self._seen.when >= wait:
                self._seen = await self._look()
        return self.reason

    @property
    def reason(self) -> str | None:
        """Why it cannot be used, as far as the last look has seen."""
        seen = self._seen
        if seen is None:
            return "not asked yet"
        if seen.data is None:
            failures = [each.failure.found for each in seen.answers if each.failure]
            others = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
            return f"{failures[0]}{others}"
        if seen.data.failure is not None:
            return seen.data.failure.found
        return None if seen.data.whose is Whose.OURS else "does not belong to the cluster yet"

    @property
    def detail(self) -> str:
        """How many endpoints work, and what they run."""
        seen = self._seen
        if seen is None:
            return ""
        versions = ", ".join(sorted({each.version for each in seen.answers if each.version}))
        counted = f"{len(seen.usable)} of {len(seen.answers)} endpoints"
        return f"etcd {versions}, {counted}" if versions else counted

    @property
    def failures(self) -> tuple[Failure, ...]:
        """All that somebody should look at; an endpoint that fails is told although others work."""
        if self._seen is None:
            return ()
        told = [failure for each in self._seen.answers for failure in (each.failure, each.notice) if failure]
        if self._seen.data is not None and self._seen.data.failure is not None:
            told.append(self._seen.data.failure)
        return tuple(told)

    @property
    def claimable(self) -> bool:
        """Whether the prefix is empty and this node may make it the cluster's."""
        return self._seen is not None and self._seen.data == Data(Whose.NOBODYS)

    @property
    def outdated(self) -> bool:
        """Whether the CA before has claimed the prefix, and the one that signs now has to. Raises BasaltError."""
        owner = self._seen.data.owner if self._seen is not None and self._seen.data is not None else ""
        return self.succeeds and bool(owner) and owner != claim.fingerprint(self.authority)

    @property
    def remembered(self) -> bool:
        """Whether the node has a record of what was claimed. Raises BasaltError when it is damaged."""
        return Claimed.load(self.record) is not None

    async def claim(self) -> None:
        """Make the prefix the cluster's if it is nobody's or its last CA's, and remember it. Raises BasaltError."""
        own = await asyncio.to_thread(claim.fingerprint, self.authority)
        async with self._lock:
            outdated = await asyncio.to_thread(lambda: self.outdated)
            if (self.claimable or outdated) and self._seen is not None:
                usable = self._seen.usable
                await claim.claim(self.external, self.login, usable, own, self.cluster, anew=outdated)
                self._seen = Seen(self._seen.when, self._seen.answers, Data(Whose.OURS, owner=own))
        Claimed(own).save(self.record)

    async def _look(self) -> Seen:
        when = self.clock()
        asked = [
            asyncio.to_thread(endpoints.ask, each, self.login, f"{ENDPOINTS_PATH}[{index}]")
            for index, each in enumerate(self.external.endpoints)
        ]
        seen = Seen(when, tuple(await asyncio.gather(*asked)), None)
        if not seen.usable:
            return seen
        known = self._seen.data if self._seen is not None else None
        lasting = (
            self._judged is not None and when - self._judged[0] < AGAIN and self._judged[1] == seen.usable
        )
        if known is None or known.whose is not Whose.OURS or not lasting:
            known = await self._judge(seen.usable)
            self._judged = (when, seen.usable)
        return Seen(when, seen.answers, known)

    async def _judge(self, usable: tuple[str, ...]) -> Data:
        try:
            own = await asyncio.to_thread(
                claim.fingerprints, self.authority, self.authority.with_name("ca-beside.crt")
            )
            data = await claim.look(self.external, self.login, usable, own)
        except BasaltError as error:
            failure = Failure(Code.STEP_FAILED, "datastore", str(error), error.hint or claim.RETRIED)
            return Data(Whose.UNUSABLE, failure)
        if data.whose is Whose.NOBODYS and (self.remembered or not self.founds):
            return Data(Whose.UNUSABLE, claim.lost(self.external))
        return data
