# SPDX-License-Identifier: Apache-2.0
"""What is kept of the cluster's objects: Services with their addresses, nodes, and who has endpoints here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from firstboot.cluster.records import internal_addresses
from firstboot.loadbalancer.addresses import Address, parse

ANNOTATION = "basalt.io/load-balancer-ips"
"""On a Service: the addresses that it wants, one of an IP version, separated by commas."""

EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"
"""Kubernetes' label of a node that takes no packets from outside."""

MANAGER = "load-balancer"
"""Under which name statuses are written, and known again."""

SERVICES, NODES = "/api/v1/services", "/api/v1/nodes"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"


@dataclass(frozen=True)
class Service:
    """A Service that has, had or wants an address of ours.

    ours:     whether it is of type LoadBalancer without a class; what another one has of us is taken back
    version:  of the object, which a change names so that nothing else is changed
    families: IP versions that it needs an address of
    wanted:   the addresses that it asks for, as written
    current:  those in its status
    local:    whether only nodes with an endpoint of it may take its packets
    """

    namespace: str
    name: str
    uid: str
    version: str
    created: str
    ours: bool = True
    families: tuple[int, ...] = (4,)
    wanted: tuple[str, ...] = ()
    current: tuple[str, ...] = ()
    local: bool = False

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def age(self) -> tuple[str, str]:
        """What the older one of two Services has less of."""
        return self.created, self.key

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The addresses in its status."""
        return tuple(address for text in self.current if (address := parse(text)) is not None)


@dataclass(frozen=True)
class Member:
    """A node: where others reach it, at one address or at one of each IP version, and whether packets come in here."""

    addresses: tuple[str, ...]
    excluded: bool = False

    @property
    def address(self) -> str:
        """Where the other nodes' keepalived reaches it."""
        return self.addresses[0]


def service(obj: Any) -> Service | None:
    """Return what is kept of a Service, None for one that has nothing to do with us."""
    metadata, spec = obj["metadata"], obj["spec"]
    ours = spec.get("type") == "LoadBalancer" and not spec.get("loadBalancerClass")
    if not ours and not written_by_us(obj):
        return None
    annotation = metadata.get("annotations", {}).get(ANNOTATION)
    wanted = spec.get("loadBalancerIP", "") if annotation is None else annotation
    ingress = obj.get("status", {}).get("loadBalancer", {}).get("ingress") or ()
    return Service(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=metadata["resourceVersion"],
        created=metadata["creationTimestamp"],
        ours=ours,
        families=tuple(int(family.removeprefix("IPv")) for family in spec.get("ipFamilies") or ("IPv4",)),
        wanted=tuple(part.strip() for part in wanted.split(",") if part.strip()),
        current=tuple(each.get("ip") or each.get("hostname", "") for each in ingress),
        local=spec.get("externalTrafficPolicy") == "Local",
    )


def written_by_us(obj: Any) -> bool:
    """Whether the status of a Service has addresses that came from here."""
    managers = obj["metadata"].get("managedFields", ())
    has = bool(obj.get("status", {}).get("loadBalancer", {}).get("ingress"))
    return has and any(
        each.get("manager") == MANAGER and each.get("subresource") == "status" for each in managers
    )


def member(obj: Any) -> Member | None:
    """Return what is kept of a node, None for one that has not told its address yet."""
    addresses = internal_addresses(obj)
    return Member(addresses, EXCLUDED in obj["metadata"].get("labels", {})) if addresses else None


def endpoints_on(node: str, obj: Any) -> str | None:
    """Return the Service (``namespace/name``) of an EndpointSlice with a ready endpoint on the node, else None."""
    metadata = obj["metadata"]
    name = metadata.get("labels", {}).get("kubernetes.io/service-name")
    here = any(
        each.get("nodeName") == node and each.get("conditions", {}).get("ready") is not False
        for each in obj.get("endpoints") or ()
    )
    return f"{metadata['namespace']}/{name}" if name and here else None
