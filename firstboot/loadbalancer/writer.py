# SPDX-License-Identifier: Apache-2.0
"""Writes down which Service has which address: in its status, which is the record, and why not in an event.

Only who holds the lease does so, from a list of his own: it is read when his term begins, so that nothing that was
written before is missing in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from firstboot.events import Teller
from firstboot.kube import Client, KubeError
from firstboot.loadbalancer import objects
from firstboot.loadbalancer.addresses import Pool
from firstboot.loadbalancer.allocator import Decision, decide
from firstboot.loadbalancer.lease import Lease
from firstboot.loadbalancer.objects import MANAGER, SERVICES, Service
from firstboot.mirror import Mirror

AGAIN = 5.0
"""Seconds until what could not be written is tried again."""
NOT_NOW = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
"""Answers that mean that the Service has changed or gone, which the list is about to show."""

log = logging.getLogger(__name__)


class Writer:
    """One term: from the list of Services to their statuses.

    pool: returns what there is to give, as of now; None while that is not known
    """

    def __init__(self, client: Client, lease: Lease, pool: Callable[[], Pool | None]) -> None:
        """Know nothing yet."""
        self._client, self._lease, self._pool = client, lease, pool
        self._news = asyncio.Event()
        self._services = Mirror(client, SERVICES, objects.service, self._news.set)
        self._pending: dict[str, tuple[str, Service]] = {}
        self._told: dict[str, str] = {}
        self._teller = Teller(client, MANAGER)

    def look(self) -> None:
        """Have everything decided anew: the pool has changed."""
        self._news.set()

    async def serve(self) -> None:
        """Give and take back until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._services.follow())
            while True:
                await self._news.wait()
                self._news.clear()
                pool = self._pool()
                if self._services.synced and pool is not None and not await self._pass(pool):
                    asyncio.get_running_loop().call_later(AGAIN, self._news.set)

    async def _pass(self, pool: Pool) -> bool:
        """Write what is not as it should be; whether all could be written."""
        services = self._current()
        decisions = decide(services.values(), pool)
        done = [await self._settle(each, decisions.get(each.key, Decision())) for each in services.values()]
        for gone in self._told.keys() - services.keys():
            del self._told[gone]
        return all(done)

    def _current(self) -> Mapping[str, Service]:
        """Return the list, with what was written and has not come back in it yet."""
        found = dict(self._services.objects)
        for key, (before, after) in list(self._pending.items()):
            if key in found and found[key].version == before:
                found[key] = after
            else:
                del self._pending[key]
        return found

    async def _settle(self, service: Service, decision: Decision) -> bool:
        wanted = tuple(map(str, decision.addresses))
        try:
            if wanted != service.current:
                if not self._lease.held:
                    return False
                await self._write(service, wanted)
            await self._tell(service, decision.reason or "")
        except KubeError as error:
            log.log(logging.INFO if error.status in NOT_NOW else logging.WARNING, "%s", error)
            return error.status in NOT_NOW
        return True

    async def _write(self, service: Service, wanted: tuple[str, ...]) -> None:
        answer = await write(self._client, service, wanted)
        version = answer["metadata"]["resourceVersion"]
        self._pending[service.key] = service.version, replace(service, version=version, current=wanted)
        log.info("%s has %s", service.key, ", ".join(wanted) or "no address any more")
        if wanted:
            await self._teller.tell(reference(service), "Normal", "AddressGiven", f"has {', '.join(wanted)}")

    async def _tell(self, service: Service, reason: str) -> None:
        if self._told.get(service.key, "") == reason:
            return
        if reason:
            await self._teller.tell(reference(service), "Warning", "NoAddress", reason)
            log.info("%s: %s", service.key, reason)
        self._told[service.key] = reason


async def write(client: Client, service: Service, addresses: Iterable[str]) -> Any:
    """Give a Service these addresses and no other, if it is what it was; return the object. Raises KubeError."""
    ingress = [{"ip": each, "ipMode": "VIP"} for each in addresses]
    change = {
        "metadata": {"resourceVersion": service.version},
        "status": {"loadBalancer": {"ingress": ingress or None}},
    }
    path = f"/api/v1/namespaces/{service.namespace}/services/{service.name}/status"
    return await client.merge(path, change, MANAGER)


def reference(service: Service) -> dict[str, str]:
    """Return how an event names a Service."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "namespace": service.namespace,
        "name": service.name,
        "uid": service.uid,
    }
