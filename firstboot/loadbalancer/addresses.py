# SPDX-License-Identifier: Apache-2.0
"""Networks and ranges of addresses, and what of them can be given to a Service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import islice
from typing import Any

Address = IPv4Address | IPv6Address

ROUTER_IDS = 255
"""How many ids VRRP has, and with them how many addresses can be carried in layer 2."""


class BadSpan(ValueError):
    """A text is neither a network nor a range; remedy: what to write instead."""

    def __init__(self, found: str, remedy: str) -> None:
        self.remedy = remedy
        super().__init__(found)


@dataclass(frozen=True)
class Span:
    """Addresses that follow each other: the first, and the last."""

    first: Address
    last: Address

    @classmethod
    def parse(cls, text: str) -> Span:
        """Read ``192.0.2.64/28``, ``192.0.2.64-192.0.2.79`` or one address. Raises BadSpan."""
        begin, dash, end = (part.strip() for part in text.partition("-"))
        if dash:
            return cls._range(text, begin, end)
        try:
            network = ip_network(text, strict=False)
        except ValueError:
            raise BadSpan(
                f"`{text}` is no network and no range",
                "Write a network such as `192.0.2.64/28`, or a range such as `192.0.2.64-192.0.2.79`.",
            ) from None
        if ip_address(text.partition("/")[0]) != network.network_address:
            raise BadSpan(f"`{text}` is an address inside of {network}", f"Write `{network}`.")
        return cls(network.network_address, network.broadcast_address)

    @classmethod
    def _range(cls, text: str, begin: str, end: str) -> Span:
        try:
            first, last = ip_address(begin), ip_address(end)
        except ValueError:
            remedy = "Write the first and the last address in full, e.g. `192.0.2.64-192.0.2.79`."
            raise BadSpan(f"`{text}` is not two addresses", remedy) from None
        if first.version != last.version:
            raise BadSpan(f"`{text}` is from IPv{first.version} to IPv{last.version}", "Write two ranges.")
        if int(first) > int(last):
            raise BadSpan(f"`{text}` ends before it begins", f"Write `{last}-{first}`.")
        return cls(first, last)

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.first.version

    def __contains__(self, address: Address) -> bool:
        """Whether an address is one of them."""
        same = address.version == self.version
        return same and int(self.first) <= int(address) <= int(self.last)

    def overlaps(self, other: Span) -> bool:
        """Whether two have an address in common."""
        return other.first in self or self.first in other

    def __iter__(self) -> Iterator[Address]:
        """Give them one after the other."""
        kind: Any = type(self.first)
        return (kind(number) for number in range(int(self.first), int(self.last) + 1))

    def __str__(self) -> str:
        """Return it as a range."""
        return f"{self.first}-{self.last}"

    @property
    def givable(self) -> int:
        """How many of them are given to whoever asks for none in particular."""
        all_of_them = int(self.last) - int(self.first) + 1
        if self.version == 6:
            return all_of_them
        edges = sum(_up_to(int(self.last), edge) - _up_to(int(self.first) - 1, edge) for edge in (0, 255))
        return all_of_them - edges


@dataclass(frozen=True)
class Pool:
    """What the cluster may give.

    taken:   addresses of it that somebody else has, and who
    in_l2:   whether the addresses are carried in layer 2, each by an id of its own
    foreign: the VRRP id that is somebody else's on these nodes
    """

    spans: tuple[Span, ...]
    taken: Mapping[Address, str] = field(default_factory=dict)
    in_l2: bool = False
    foreign: int | None = None

    def __contains__(self, address: Address) -> bool:
        """Whether it may be given."""
        return address not in self.taken and any(address in span for span in self.spans)

    def has(self, version: int) -> bool:
        """Whether there are addresses of an IP version."""
        return any(span.version == version for span in self.spans)

    def candidates(self, version: int) -> Iterator[Address]:
        """Give what a Service may have that asks for no address in particular, the preferred one first."""
        # Ids come again every 256 addresses: beyond these a span has none that it did not have before.
        most = 256 * (len(self.taken) + 1) if self.in_l2 else None
        for span in self.spans:
            if span.version == version:
                within = islice(span, most)
                yield from (each for each in within if not on_edge(each) and each not in self.taken)

    @property
    def size(self) -> int:
        """How many addresses can be given at the same time."""
        mine = sum(1 for each in self.taken if not on_edge(each) and any(each in span for span in self.spans))
        addresses = sum(span.givable for span in self.spans) - mine
        ids = ROUTER_IDS - (self.foreign is not None)
        return min(addresses, ids) if self.in_l2 else addresses

    def __str__(self) -> str:
        """Return the ranges."""
        return ", ".join(map(str, self.spans))


def spans(texts: Iterable[str]) -> tuple[Span, ...]:
    """Return what a document's `cidrs` say. Raises BadSpan."""
    return tuple(Span.parse(text) for text in texts)


def parse(text: str) -> Address | None:
    """Return the address, None for text that is none."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def router_id(address: Address) -> int:
    """Return the VRRP id of an address: its last part, and 255 in place of 0, which VRRP does not have."""
    return int(address) % 256 or 255


def on_edge(address: Address) -> bool:
    """Whether an address may be that of a network, or for all of its hosts: some clients refuse to speak to it."""
    return address.version == 4 and int(address) % 256 in (0, 255)


def _up_to(number: int, edge: int) -> int:
    """Return how many numbers from 0 to this one end in a byte."""
    return (number - edge) // 256 + 1
