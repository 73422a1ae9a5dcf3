# SPDX-License-Identifier: Apache-2.0
"""Objects of users that a change of the cluster's settings would orphan, or names although they are not there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from firstboot.cluster import volumes
from firstboot.cluster.settings import Values
from firstboot.codes import Code
from firstboot.failure import Failure
from firstboot.features.ingress import CLASS, CLASS_ANNOTATION, NAMESPACE, PUBLISHED
from firstboot.kube import Client
from firstboot.loadbalancer import addresses
from firstboot.loadbalancer.addresses import Pool
from firstboot.loadbalancer.objects import SERVICES, Service
from firstboot.loadbalancer.objects import service as read_service

CERTIFICATE, TLS = "features.ingress.default-tls-secret", "kubernetes.io/tls"
"""A setting that names a Secret in kube-system, and its type."""

MOST = 10
"""How many are named."""

BALANCER, CIDRS = "features.load-balancer.enabled", "features.load-balancer.cidrs"


async def orphans(client: Client, before: Values, after: Values) -> tuple[Failure, ...]:
    """Return a failure for each feature that is switched off, moved away or loses what objects have.

    Settings by path. Raises KubeError.
    """
    failures = []
    for path, users in USERS.items():
        if _goes(path, before, after) and (names := await users(client)):
            found = f"{_listed(names)} would be left without it"
            remedy = "Remove them first, or switch it off all the same: --force."
            failures.append(Failure(Code.FEATURE_IN_USE, path, found, remedy))
    if before.get(BALANCER) and after.get(BALANCER) and before.get(CIDRS) != after.get(CIDRS):
        failures += await _moved(client, before, after)
    return tuple(failures)


async def unnamed(client: Client, wanted: Values) -> tuple[Failure, ...]:
    """Return a failure for each setting that names an object which is not there. Raises KubeError."""
    name = wanted.get(CERTIFICATE)
    if name is None:
        return ()
    secret = await client.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}")
    if secret is not None and secret["type"] == TLS:
        return ()
    found = f"is of type {secret['type']}" if secret else "does not exist"
    remedy = f"kubectl create secret tls {name} -n {NAMESPACE} --cert=FILE --key=FILE; or set it all the same: --force."
    return (Failure(Code.SECRET_MISSING, CERTIFICATE, f"Secret {NAMESPACE}/{name} {found}", remedy),)


def _goes(path: str, before: Values, after: Values) -> bool:
    """Whether what is at a path, a switch or a place, will not be there any more; a place only while it is used."""
    was = before.get(path)
    if isinstance(was, bool):
        return was and after.get(path) is False
    used = f"{path.rpartition('.')[0]}.enabled"
    return before.get(used) is True and after.get(used) is True and was != after.get(path)


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
    """Return the Services that want an address from outside; that of ingress has those of the nodes without one."""
    return sorted(f"Service {service.key}" for service in await _services(client) if service.key != PUBLISHED)


async def _services(client: Client) -> list[Service]:
    found = (await client.get(SERVICES))["items"]
    return [service for obj in found if (service := read_service(obj)) is not None and service.ours]


async def _autoscalers(client: Client) -> list[str]:
    """Return the HorizontalPodAutoscalers that look at what pods use."""
    found = await client.get("/apis/autoscaling/v2/horizontalpodautoscalers")
    return sorted(
        _called(each, "HorizontalPodAutoscaler")
        for each in found["items"]
        if any(kind in ("Resource", "ContainerResource") for kind in _kinds(each))
    )


def _kinds(autoscaler: Mapping[str, Any]) -> Iterator[str]:
    for metric in autoscaler["spec"].get("metrics", ()):
        yield metric["type"]


async def _ingresses(client: Client) -> list[str]:
    """Return the Ingresses that we serve."""
    found = await client.get("/apis/networking.k8s.io/v1/ingresses")
    return sorted(_called(each, "Ingress") for each in found["items"] if _is_served(each))


def _is_served(ingress: Mapping[str, Any]) -> bool:
    """Whether an Ingress is of our class or of none (image/components/traefik/edit.py)."""
    annotated = ingress["metadata"].get("annotations", {}).get(CLASS_ANNOTATION)
    return (ingress["spec"].get("ingressClassName") or annotated or CLASS) == CLASS


async def _gateways(client: Client) -> list[str]:
    """Return the Gateways of our class; their routes need them."""
    found = await client.get("/apis/gateway.networking.k8s.io/v1/gateways") or {"items": []}
    return sorted(
        _called(each, "Gateway") for each in found["items"] if each["spec"]["gatewayClassName"] == CLASS
    )


def _called(each: Mapping[str, Any], kind: str) -> str:
    return f"{kind} {each['metadata']['namespace']}/{each['metadata']['name']}"


async def _policies(client: Client) -> list[str]:
    """Return the NetworkPolicies, which nobody would enforce."""
    found = await client.get("/apis/networking.k8s.io/v1/networkpolicies")
    return sorted(_called(each, "NetworkPolicy") for each in found["items"])


USERS: Mapping[str, Callable[[Client], Awaitable[list[str]]]] = {
    BALANCER: _balanced,
    "features.ingress.enabled": _ingresses,
    "features.gateway.enabled": _gateways,
    "features.local-storage.enabled": volumes.users,
    "features.local-storage.local-path": volumes.users,
    "features.metrics-server.enabled": _autoscalers,
    "features.network.enabled": _policies,
}
"""Switch of a feature, or its place -> who finds the objects that need it."""
