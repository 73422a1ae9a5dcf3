# SPDX-License-Identifier: Apache-2.0
"""The service load-balancer: follows Services, nodes and endpoints, and has keepalived and BIRD do what comes out.

It goes on while the agent is away. Without the API server everything stays as it was last known: the nodes agree among
themselves who carries an address.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial

from firstboot import files, systemd
from firstboot.kube import Client, KubeError
from firstboot.loadbalancer import bird, keepalived, objects, places
from firstboot.loadbalancer.addresses import Address, Pool
from firstboot.loadbalancer.allocator import decide
from firstboot.loadbalancer.lease import Lease
from firstboot.loadbalancer.objects import NODES, SERVICES, SLICES, Member, Service
from firstboot.loadbalancer.program import Program
from firstboot.loadbalancer.settings import Settings
from firstboot.loadbalancer.speaker import Duty, carried_apart, duties, given
from firstboot.loadbalancer.writer import Writer
from firstboot.log import setup
from firstboot.mirror import Mirror
from firstboot.probes import HttpProbe

INTERVAL = 5.0
"""Seconds between two looks at what tells no news by itself."""
PATIENCE = 10.0
"""Seconds without an answer of kube-proxy that change nothing: a restart is no reason to move addresses."""
SHOWN = 3
"""How many Services without an address the status names."""

log = logging.getLogger(__name__)


class Balancer:
    """The service on one node."""

    def __init__(self, settings: Settings, client: Client) -> None:
        """Know nothing yet."""
        self.settings, self._client = settings, client
        self._news = asyncio.Event()
        here = partial(objects.endpoints_on, settings.node)
        self._services = Mirror[Service](client, SERVICES, objects.service, self._news.set)
        self._nodes = Mirror[Member](client, NODES, objects.member, self._changed_nodes)
        self._slices = Mirror[str](client, SLICES, here, self._news.set)
        self._writer: Writer | None = None
        self._proxy = HttpProbe("http://127.0.0.1:10256/livez")
        self._proxy_answered = float("-inf")
        feature = settings.feature
        self._l2 = (
            Program("keepalived", places.L2, places.tries_l2, places.L2_PID) if feature.l2_mode else None
        )
        self._bgp = (
            Program("BIRD", places.BGP, places.tries_bgp, places.BGP_PID) if feature.bgp_mode else None
        )

    async def run(self, allocator: Client | None) -> None:
        """Work until cancelled; allocator: the connection of one that gives addresses, None on other nodes."""
        self._begin()
        systemd.notify("READY=1")
        async with asyncio.TaskGroup() as group:
            for mirror in (self._services, self._nodes, self._slices):
                group.create_task(mirror.follow())
            if allocator is not None:
                group.create_task(self._allocate(allocator))
            while True:
                await self._look()
                systemd.notify("WATCHDOG=1")
                with suppress(TimeoutError):
                    async with asyncio.timeout(INTERVAL):
                        await self._news.wait()
                self._news.clear()

    def _begin(self) -> None:
        """Give both programs something to read; what a process before this one gave them stays."""
        if self._l2 is not None:
            self._l2.begin(keepalived.GLOBAL)
        if self._bgp is not None:
            self._bgp.begin(self._announced(()))

    @property
    def pool(self) -> Pool:
        """What there is to give, as far as nodes are known."""
        return self.settings.pool({name: each.addresses for name, each in self._nodes.objects.items()})

    def _changed_nodes(self) -> None:
        self._news.set()
        if self._writer is not None:
            self._writer.look()

    async def _allocate(self, client: Client) -> None:
        """Be a candidate for the lease, and give addresses while it is held."""
        lease = Lease(client, places.LEASE, self.settings.node)
        try:
            while True:
                await lease.acquire()
                self._writer = Writer(client, lease, lambda: self.pool if self._nodes.synced else None)
                serving = asyncio.create_task(self._writer.serve())
                try:
                    await lease.keep(serving)
                finally:
                    self._writer = None
                    serving.cancel()
                    await asyncio.wait([serving])
        finally:
            with suppress(KubeError):
                await lease.release()

    async def _look(self) -> None:
        """Bring everything up to date with what is known now."""
        lacks = [
            f"the API server cannot be followed: {mirror.reason}"
            for mirror in (self._services, self._nodes, self._slices)
            if mirror.reason is not None
        ][:1]
        if not all(mirror.synced for mirror in (self._services, self._nodes, self._slices)):
            self._say(lacks)
            return
        able = await self._takes_packets()
        if not able:
            lacks.append("kube-proxy does not answer, so this node takes no packets for addresses")
        pool = self.pool
        known = given(self._services.objects.values(), pool)
        nodes, here = self._nodes.objects, self.settings.node
        mine = duties(known, nodes, here, set(self._slices.objects.values())) if able else ()
        lacks += [*await self._carry(mine, nodes, pool), *await self._announce(mine)]
        self._say(lacks, self._account(known, pool))

    async def _takes_packets(self) -> bool:
        if not self.settings.proxied:
            return True
        now = time.monotonic()
        if await self._proxy(self._client) is None:
            self._proxy_answered = now
        return now - self._proxy_answered <= PATIENCE

    async def _carry(self, mine: Iterable[Duty], nodes: Mapping[str, Member], pool: Pool) -> list[str]:
        """Have keepalived stand for addresses; return what is in the way."""
        if self._l2 is None:
            return []
        cards, peers = self.settings.cards, [each.address for each in nodes.values() if not each.excluded]
        apart, rest = carried_apart(mine, pool.foreign)
        lacks = [
            f"{each.address} of {each.service} is not carried: its VRRP id is that of another address"
            for each in rest
        ]
        reason = await self._l2.follow(keepalived.configuration(apart, peers, cards))
        return [*lacks, reason] if reason else lacks

    async def _announce(self, mine: Iterable[Duty]) -> list[str]:
        """Have BIRD tell routers of addresses; return what is in the way."""
        if self._bgp is None:
            return []
        if reason := await self._bgp.follow(self._announced(each.address for each in mine)):
            return [reason]
        return await bird.missing(places.BGP_CONTROL, self.settings.feature.bgp_peers)

    def _announced(self, addresses: Iterable[Address]) -> str:
        feature = self.settings.feature
        assert feature.bgp_local_asn is not None, "the rules have it"
        versions = [version for version in (4, 6) if self.pool.has(version)]
        return bird.configuration(
            addresses, versions, self.settings.cards, feature.bgp_local_asn, feature.bgp_peers
        )

    def _account(self, known: Mapping[Address, Service], pool: Pool) -> str:
        """Return for people how many addresses are in use, and who waits for one."""
        text = f"{len(known)} of {pool.size} addresses in use"
        if self._l2 is not None:
            carried = [str(address) for address in known if is_here(address)]
            text += f", this node carries {', '.join(carried) or 'none'}"
        decided = decide(self._services.objects.values(), pool)
        waiting = sorted((key, each.reason) for key, each in decided.items() if each.reason)
        more = f" and {len(waiting) - SHOWN} more" if len(waiting) > SHOWN else ""
        listed = "; ".join(f"{key}: {reason}" for key, reason in waiting[:SHOWN])
        return f"{text}; {listed}{more}" if waiting else text

    def _say(self, lacks: Iterable[str], account: str = "") -> None:
        """Keep both for the agent to read."""
        files.write(places.LACKS, "; ".join(lacks), 0o600)
        files.write(places.ACCOUNT, account, 0o600)


def is_here(address: Address) -> bool:
    """Whether this machine has an address now: a socket can be bound to no other."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


async def serve() -> None:
    """Read the settings and work until SIGTERM."""
    settings = Settings.from_json(places.SETTINGS.read_text())
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with Client(identity=places.IDENTITY) as client, Client(identity=places.ALLOCATOR) as allocator:
        await Balancer(settings, client).run(allocator if settings.allocates else None)


def main() -> None:
    """Be the service; the entry point of load-balancer.service."""
    setup()
    with suppress(asyncio.CancelledError):
        asyncio.run(serve())
