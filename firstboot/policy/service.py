# SPDX-License-Identifier: Apache-2.0
"""Has this node's kernel enforce the cluster's NetworkPolicies: the program of network-policy.service.

The table outlives the process: while it is started again, or the API server is away, what was last known is enforced.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from firstboot import files, run, systemd
from firstboot import log as logs
from firstboot.failure import BasaltError
from firstboot.kube import Client
from firstboot.mirror import Mirror
from firstboot.paths import POLICY_LACKS
from firstboot.policy import compile, nft
from firstboot.policy.model import Pod, Policy, read_namespace, read_pod
from firstboot.policy.nft import Ruleset

log = logging.getLogger(__name__)

IDENTITY = "network-policy"
POLICIES = "/apis/networking.k8s.io/v1/networkpolicies"
BRIDGE = Path("/sys/class/net") / compile.BRIDGE
BEAT = 20.0
"""Seconds after which there is a sign of life."""
PAUSE, SHARE = 0.1, 2.0
"""Seconds between two changes of the table, and how many times longer than the last change took: what happens
meanwhile is one change, and a busy cluster does not keep a processor busy."""
RETRY = 5.0
"""Seconds after which a change that failed is tried again."""
NFT_SECONDS = 60.0
"""How long one may take: emulated machines are slow."""
SETTLED = 60.0
"""Seconds after which addresses are believed that may be from before the machine was started, see Memory."""
MOST = 3
"""How many policies are named that are not enforced as they are written."""


class Memory:
    """Which addresses of this node's pods are those of now.

    After a power cut the API has the addresses that pods had before, until the kubelet has started them again; by then
    another pod may have one of them. As long as no pod had a network when this process began, an address counts when
    the pod has a container that was started after the machine was. A clock that was put right meanwhile makes
    that hard to tell, so after a while all count.
    """

    def __init__(self, fresh: bool) -> None:
        """Begin; fresh: no pod has had a network since the machine was started."""
        self._until = time.monotonic() + SETTLED if fresh else None
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        self._booted = datetime.fromtimestamp(booted, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def settles(self) -> bool:
        """Whether time alone will change what counts."""
        return self._until is not None

    def begin(self) -> None:
        """Count the time from now on: the pods are known."""
        if self._until is not None:
            self._until = time.monotonic() + SETTLED

    def knows(self, pod: Pod) -> bool:
        """Whether a pod's addresses are to be believed."""
        if self._until is not None and time.monotonic() > self._until:
            self._until = None
        return bool(pod.addresses) and (self._until is None or pod.started >= self._booted)


class Enforcer:
    """One node's."""

    def __init__(self, client: Client, node: str, told: Path = POLICY_LACKS, bridge: Path = BRIDGE) -> None:
        """Enforce nothing yet.

        told: where to say what is lacking; empty when nothing is
        """
        self._node, self._told = node, told
        self._news = asyncio.Event()
        self._policies = Mirror(client, POLICIES, Policy.from_dict, self._news.set)
        self._pods = Mirror(client, "/api/v1/pods", read_pod, self._news.set)
        self._namespaces: Mirror[Mapping[str, str]] = Mirror(
            client, "/api/v1/namespaces", read_namespace, self._news.set
        )
        self._memory = Memory(fresh=not bridge.exists())
        self._applied: Ruleset | None = None
        self._synced = False
        self._failed: str | None = None
        self._said = ""

    async def begin(self) -> None:
        """Let no pod's packets pass where no pod has a network yet: what is to be enforced is not known.

        Where pods are running already they go on as they did until it is.
        """
        if self._memory.settles:
            await self._apply(compile.closed())

    async def follow(self) -> None:
        """Enforce for ever."""
        mirrors = (self._policies, self._pods, self._namespaces)
        async with asyncio.TaskGroup() as group:
            for mirror in mirrors:
                group.create_task(mirror.follow())
            group.create_task(self._enforce_always())

    async def _enforce_always(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), RETRY if self._failed else BEAT)
            began = time.monotonic()
            self._news.clear()
            with suppress(BasaltError):
                await self._enforce()
            self._tell()
            systemd.notify("WATCHDOG=1")
            await asyncio.sleep(max(PAUSE, SHARE * (time.monotonic() - began)))

    async def _enforce(self) -> None:
        if not (self._policies.synced and self._pods.synced and self._namespaces.synced):
            return
        if not self._synced:
            self._synced = True
            self._memory.begin()
        compiled = compile.compile_rules(
            self._policies.objects.values(),
            self._pods.objects.values(),
            self._namespaces.objects,
            self._node,
            self._memory.knows,
        )
        if compiled.ruleset == self._applied:
            return
        await self._apply(compiled.ruleset)
        what = f"{len(self._policies.objects)} policies, {compiled.isolated} of this node's pods isolated"
        if compiled.pending:
            what += f", of which {len(compiled.pending)} have no known address yet"
        if what != self._said:
            log.info("%s", what)
            self._said = what

    async def _apply(self, ruleset: Ruleset) -> None:
        """Have the kernel follow. Raises RunError; then all of the table is made anew the next time."""
        text = nft.whole(ruleset) if self._applied is None else nft.changes(self._applied, ruleset)
        self._applied = None
        try:
            await run.run_async(["nft", "-f", "-"], input=text, timeout=NFT_SECONDS)
        except BasaltError as error:
            self._failed = f"the kernel does not take the rules, so the last ones stay: {error}"
            log.error("%s", self._failed)
            raise
        self._applied, self._failed = ruleset, None

    def _tell(self) -> None:
        """Say what is lacking, in a line."""
        text = self._lacks() or ""
        if (files.read_or_none(self._told) or b"?").decode() != text:
            if text:
                # That the API server does not answer at once is no reason to warn of.
                log.log(logging.WARNING if self._synced else logging.INFO, "%s", text)
            files.write(self._told, text, 0o644)

    def _lacks(self) -> str | None:
        if self._failed:
            return self._failed
        for what, mirror in (
            ("policies", self._policies),
            ("pods", self._pods),
            ("namespaces", self._namespaces),
        ):
            if mirror.reason is not None:
                return (
                    f"{what} as last known are enforced: {mirror.reason}" if mirror.synced else mirror.reason
                )
        wrong = [policy for policy in self._policies.objects.values() if policy.problems]
        named = "; ".join(f"{each.title}: {each.problems[0]}" for each in wrong[:MOST])
        more = f"; and {len(wrong) - MOST} more" if len(wrong) > MOST else ""
        return f"not enforced as written, but more narrowly: {named}{more}" if wrong else None


async def serve() -> None:
    """Run until systemd ends it."""
    async with Client(identity=IDENTITY) as client:
        enforcer = Enforcer(client, os.environ["NODE_NAME"])
        await enforcer.begin()
        systemd.notify("READY=1")
        await enforcer.follow()


def main() -> None:
    """Enforce for ever; the entry point of network-policy.service."""
    logs.setup()
    asyncio.run(serve())


if __name__ == "__main__":
    main()
