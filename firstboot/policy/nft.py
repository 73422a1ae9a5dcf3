# SPDX-License-Identifier: Apache-2.0
"""A table of nftables as data, and the transactions that make the kernel's so: whole, or where it has changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

TABLE = "inet network-policy"


@dataclass(frozen=True)
class Set:
    """A set; elements as nft writes them, e.g. ``10.1.0.5`` or ``10.1.0.5 . 80``.

    interval: whether elements may be networks and ranges, which must not overlap
    """

    type: str
    elements: frozenset[str]
    interval: bool = False

    @property
    def declaration(self) -> str:
        """What it is, without its elements."""
        return f"type {self.type};{' flags interval;' if self.interval else ''}"


@dataclass(frozen=True)
class Map:
    """A map from addresses to where packets go on, e.g. ``jump ingress_shop/cart``."""

    type: str
    elements: Mapping[str, str]

    @property
    def declaration(self) -> str:
        """What it is, without its elements."""
        return f"type {self.type} : verdict;"


@dataclass(frozen=True)
class Chain:
    """Rules in their order; hook: where packets come in, empty for a chain that others lead to."""

    rules: tuple[str, ...]
    hook: str = ""


@dataclass(frozen=True)
class Ruleset:
    """All that is in the table, by name."""

    sets: Mapping[str, Set] = field(default_factory=dict)
    maps: Mapping[str, Map] = field(default_factory=dict)
    chains: Mapping[str, Chain] = field(default_factory=dict)


def whole(ruleset: Ruleset) -> str:
    """Return the transaction that puts the ruleset in the place of whatever the table was."""
    # A table has to be there to be deleted.
    head = (f"add table {TABLE}", f"delete table {TABLE}", f"add table {TABLE}")
    return "\n".join((*head, *_steps(Ruleset(), ruleset))) + "\n"


def changes(old: Ruleset, new: Ruleset) -> str:
    """Return the transaction that makes of one ruleset the other; empty where they are the same."""
    return "".join(f"{line}\n" for line in _steps(old, new))


def _steps(old: Ruleset, new: Ruleset) -> Iterator[str]:
    """Yield commands, each of which finds what it names: what is new first, what nobody names any more last."""
    yield from _declare("set", old.sets, new.sets)
    yield from _declare("map", old.maps, new.maps)
    for name, chain in new.chains.items():
        if name not in old.chains:
            yield f"add chain {TABLE} {name}" + (f" {{ {chain.hook} }}" if chain.hook else "")
    for name, wanted in new.sets.items():
        yield from _refill(name, old.sets.get(name), wanted)
    for name, chain in new.chains.items():
        before = old.chains.get(name)
        if before is not None and before.rules != chain.rules:
            yield f"flush chain {TABLE} {name}"
        if before is None or before.rules != chain.rules:
            yield from (f"add rule {TABLE} {name} {rule}" for rule in chain.rules)
    for name, verdicts in new.maps.items():
        known = old.maps[name].elements if name in old.maps else {}
        moved = [key for key, verdict in known.items() if verdicts.elements.get(key) != verdict]
        yield from _elements("delete", name, moved)
        fresh = (f"{key} : {to}" for key, to in verdicts.elements.items() if known.get(key) != to)
        yield from _elements("add", name, fresh)
    gone = [name for name in old.chains if name not in new.chains]
    # Those that are to go may lead to each other.
    yield from (f"flush chain {TABLE} {name}" for name in gone)
    yield from (f"delete chain {TABLE} {name}" for name in gone)
    yield from (f"delete map {TABLE} {name}" for name in old.maps if name not in new.maps)
    yield from (f"delete set {TABLE} {name}" for name in old.sets if name not in new.sets)


def _declare(kind: str, old: Mapping[str, Set | Map], new: Mapping[str, Set | Map]) -> Iterator[str]:
    for name, each in new.items():
        if name not in old:
            yield f"add {kind} {TABLE} {name} {{ {each.declaration} }}"


def _refill(name: str, old: Set | None, new: Set) -> Iterator[str]:
    before = old.elements if old is not None else frozenset[str]()
    yield from _elements("delete", name, before - new.elements)
    yield from _elements("add", name, new.elements - before)


def _elements(command: str, name: str, elements: Iterable[str]) -> Iterator[str]:
    if found := sorted(elements):
        yield f"{command} element {TABLE} {name} {{ {', '.join(found)} }}"
