# SPDX-License-Identifier: Apache-2.0
"""Objects of users that a change of the cluster's settings would leave without a feature that they need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from firstboot.cluster.settings import Values
from firstboot.codes import Code
from firstboot.failure import Failure
from firstboot.kube import Client
from firstboot.loadbalancer import addresses
from firstboot.loadbalancer.addresses import Pool
from firstboot.loadbalancer.objects import SERVICES, Service
from firstboot.loadbalancer.objects import service as read_service

MOST = 10
"""How many are named."""

BALANCER, CIDRS = "features.load-balancer.enabled", "features.load-balancer.cidrs"


async def orphans(client: Client, before: Values, after: Values) -> tuple[Failure, ...]:
    """Return a failure for each feature that is switched off, or loses what they have, although objects need it.

    Settings by path. Raises KubeError.
    """
    failures = []
    for path, users in USERS.items():
        goes = before.get(path) is True and after.get(path) is False
        if goes and (names := await users(client)):
            found = f"{_listed(names)} would be left without it"
            remedy = "Remove them first, or switch it off all the same: --force."
            failures.append(Failure(Code.FEATURE_IN_USE, path, found, remedy))
    if before.get(BALANCER) and after.get(BALANCER) and before.get(CIDRS) != after.get(CIDRS):
        failures += await _moved(client, before, after)
    return tuple(failures)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return f"{', '.join(names[:MOST])}{more}"


async def _moved(client: Client, before: Values, after: Values) -> list[Failure]:
    """Return a failure where Services have addresses that there would be no more."""
    try:
        old, new = (Pool(addresses.spans(values[CIDRS] or ())) for values in (before, after))
    except addresses.BadSpan:
        # What is wrong with it others say.
        return []
    names = sorted(
        f"Service {service.key} ({address})"
        for service in await _services(client)
        for address in service.addresses
        if address in old and address not in new
    )
    if not names:
        return []
    remedy = "Leave their addresses among `cidrs`, or have them get other ones: --force."
    return [Failure(Code.FEATURE_IN_USE, CIDRS, f"{_listed(names)} would lose what they have", remedy)]


async def _balanced(client: Client) -> list[str]:
    """Return the Services that want an address from outside."""
    return sorted(f"Service {service.key}" for service in await _services(client))


async def _services(client: Client) -> list[Service]:
    found = (await client.get(SERVICES))["items"]
    return [service for obj in found if (service := read_service(obj)) is not None and service.ours]


async def _autoscalers(client: Client) -> list[str]:
    """Return the HorizontalPodAutoscalers that look at what pods use."""
    found = await client.get("/apis/autoscaling/v2/horizontalpodautoscalers")
    return sorted(
        f"HorizontalPodAutoscaler {each['metadata']['namespace']}/{each['metadata']['name']}"
        for each in found["items"]
        if any(kind in ("Resource", "ContainerResource") for kind in _kinds(each))
    )


def _kinds(autoscaler: Mapping[str, Any]) -> Iterator[str]:
    for metric in autoscaler["spec"].get("metrics", ()):
        yield metric["type"]


USERS: Mapping[str, Callable[[Client], Awaitable[list[str]]]] = {
    BALANCER: _balanced,
    "features.metrics-server.enabled": _autoscalers,
}
"""Switch of a feature -> who finds the objects that need it."""
