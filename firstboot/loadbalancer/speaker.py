# SPDX-License-Identifier: Apache-2.0
"""For which addresses this node may take packets, and how much it is the one to carry each in layer 2: pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from firstboot.loadbalancer.addresses import Address, Pool, router_id
from firstboot.loadbalancer.objects import Member, Service

FIRST, LAST = 250, 10
"""VRRP priorities of the node that an address belongs on, and of the one that it goes to last."""


@dataclass(frozen=True)
class Duty:
    """An address that this node may take packets for.

    priority: in the election of who carries it
    """

    address: Address
    service: str
    priority: int


def given(services: Iterable[Service], pool: Pool) -> dict[Address, Service]:
    """Return which addresses are in use: those in the status of Services, the older one's where two have the same."""
    found: dict[Address, Service] = {}
    for service in sorted((each for each in services if each.ours), key=lambda each: each.age):
        for address in service.addresses:
            if address in pool:
                found.setdefault(address, service)
    return found


def duties(
    addresses: Mapping[Address, Service], nodes: Mapping[str, Member], here: str, endpoints: Collection[str]
) -> tuple[Duty, ...]:
    """Return what this node may take packets for, in the order of addresses.

    here:      its name
    endpoints: Services that have a ready endpoint on it
    """
    known = nodes.get(here)
    if known is None or known.excluded:
        return ()
    able = [name for name, each in nodes.items() if not each.excluded]
    return tuple(
        Duty(address, service.key, priority(address, here, able))
        for address, service in sorted(addresses.items(), key=lambda each: (each[0].version, each[0]))
        if not service.local or service.key in endpoints
    )


def priority(address: Address, here: str, nodes: Collection[str]) -> int:
    """Return the priority of a node: each address has an order of nodes of its own, which all nodes come to.

    It changes little when a node comes or goes: the others stay in their order.
    """
    order = sorted(nodes, key=lambda name: sha256(f"{address} {name}".encode()).digest())
    step = (FIRST - LAST) / max(1, len(order))
    return round(FIRST - order.index(here) * step)


def carried_apart(duty: Iterable[Duty], foreign: int | None) -> tuple[tuple[Duty, ...], tuple[Duty, ...]]:
    """Return what can be carried in layer 2, and what cannot since its VRRP id is in use; foreign: the API's."""
    ids = {foreign}
    apart: list[Duty] = []
    rest: list[Duty] = []
    for each in duty:
        number = router_id(each.address)
        (rest if number in ids else apart).append(each)
        ids.add(number)
    return tuple(apart), tuple(rest)
