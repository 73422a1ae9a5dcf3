# SPDX-License-Identifier: Apache-2.0
"""Which Service has which address: a pure function of what Services say and have, so that it can be asked anywhere.

Who has an address keeps it. Between two that have or want the same one, the older Service goes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from firstboot.loadbalancer.addresses import Address, Pool, parse, router_id
from firstboot.loadbalancer.objects import ANNOTATION, Service


@dataclass(frozen=True)
class Decision:
    """What a Service gets, and why not what it asks for: for people, None where it does."""

    addresses: tuple[Address, ...] = ()
    reason: str | None = None


class _Refused(Exception):
    """An address cannot be given."""


@dataclass
class _Given:
    """What is given so far; VRRP ids are given with addresses where layer 2 needs them."""

    pool: Pool
    owners: dict[Address, str] = field(default_factory=dict)
    ids: dict[int, Address] = field(default_factory=dict)
    _rest: dict[int, Iterator[Address]] = field(default_factory=dict)

    def free(self, address: Address, beside: Iterable[Address] = ()) -> bool:
        """Whether nobody has it, nor its id; beside: what the same Service gets too."""
        if address in self.owners:
            return False
        number = router_id(address)
        others = {*self.ids, self.pool.foreign, *map(router_id, beside)}
        return not self.pool.in_l2 or number not in others

    def next(self, family: int, beside: Iterable[Address]) -> Address | None:
        """Return the first one that is free; what was not is not looked at again."""
        if family not in self._rest:
            self._rest[family] = self.pool.candidates(family)
        return next((each for each in self._rest[family] if self.free(each, beside)), None)

    def give(self, addresses: Iterable[Address], key: str) -> None:
        """Note who has them."""
        for address in addresses:
            self.owners[address] = key
            self.ids[router_id(address)] = address

    def take(self, addresses: Iterable[Address]) -> None:
        """Note that nobody has them any more."""
        for address in addresses:
            del self.owners[address]
            del self.ids[router_id(address)]
            self._rest.clear()


def decide(services: Iterable[Service], pool: Pool) -> dict[str, Decision]:
    """Return what each Service of ours is to have, by ``namespace/name``."""
    given = _Given(pool)
    ordered = sorted((each for each in services if each.ours), key=lambda each: each.age)
    kept: dict[str, tuple[Address, ...]] = {}
    for service in ordered:
        if _may_keep(service, given):
            kept[service.key] = service.addresses
            given.give(service.addresses, service.key)
    return {each.key: _settled(each, kept.get(each.key, ()), given) for each in ordered}


def _may_keep(service: Service, given: _Given) -> bool:
    """Whether what it has is still good for it, whatever it asks for."""
    addresses = service.addresses
    complete = sorted(each.version for each in addresses) == sorted(service.families)
    apart = len({router_id(each) for each in addresses}) == len(addresses) or not given.pool.in_l2
    return (
        complete
        and apart
        and len(addresses) == len(service.current)
        and all(each in given.pool and given.free(each) for each in addresses)
    )


def _settled(service: Service, kept: tuple[Address, ...], given: _Given) -> Decision:
    """Return what it keeps or gets, and note it."""
    if kept and all(parse(text) in kept for text in service.wanted):
        return Decision(kept)
    given.take(kept)
    try:
        addresses = _chosen(service, given)
    except _Refused as refused:
        given.give(kept, service.key)
        stays = f"; it keeps {', '.join(map(str, kept))}" if kept else ""
        return Decision(kept, f"{refused}{stays}")
    given.give(addresses, service.key)
    return Decision(addresses)


def _chosen(service: Service, given: _Given) -> tuple[Address, ...]:
    wanted = _wanted(service)
    chosen: tuple[Address, ...] = ()
    for family in service.families:
        address = wanted.get(family)
        chosen += (_checked(address, given, chosen) if address else _next(family, given, chosen),)
    return chosen


def _wanted(service: Service) -> dict[int, Address]:
    """Return what it asks for by IP version."""
    wanted: dict[int, Address] = {}
    for text in service.wanted:
        address = parse(text)
        if address is None:
            raise _Refused(f"`{text}`, which it asks for, is no IP address")
        if address.version not in service.families:
            has = " and ".join(f"IPv{family}" for family in service.families)
            raise _Refused(f"it asks for {address}, but its ipFamilies are {has}")
        if address.version in wanted:
            raise _Refused(f"it asks for two addresses of IPv{address.version}; `{ANNOTATION}` may name one")
        wanted[address.version] = address
    return wanted


def _checked(address: Address, given: _Given, beside: tuple[Address, ...]) -> Address:
    """Return an address that is asked for, if it can be had."""
    pool = given.pool
    if owner := given.owners.get(address):
        raise _Refused(f"{address}, which it asks for, belongs to the Service {owner}")
    if owner := pool.taken.get(address):
        raise _Refused(f"{address}, which it asks for, belongs to {owner}")
    if address not in pool:
        raise _Refused(f"{address}, which it asks for, is not in features.load-balancer.cidrs ({pool})")
    if not given.free(address, beside):
        number = router_id(address)
        other = given.ids.get(number)
        of = f"the Service {given.owners[other]}" if other else "another one of it"
        of = "the API's virtual address" if number == pool.foreign else of
        raise _Refused(
            f"{address}, which it asks for, would have the same VRRP id ({number}) as {of}:"
            " in layer 2 no two addresses may end alike"
        )
    return address


def _next(family: int, given: _Given, beside: tuple[Address, ...]) -> Address:
    """Return the first address that is free."""
    pool = given.pool
    if not pool.has(family):
        raise _Refused(f"features.load-balancer.cidrs has no IPv{family} address ({pool})")
    found = given.next(family, beside)
    if found is None:
        alike = ", or end as one that is" if pool.in_l2 else ""
        raise _Refused(
            f"all IPv{family} addresses of features.load-balancer.cidrs are in use{alike} ({pool})"
        )
    return found
