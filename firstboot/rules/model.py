# SPDX-License-Identifier: Apache-2.0
"""A document under the rules: what they ask it, and where they note what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from firstboot.codes import Code
from firstboot.config import Cluster, Role
from firstboot.failure import Failure
from firstboot.schemacheck import show
from firstboot.strictyaml import Path, Place, show_path
from firstboot.values import UNUSABLE, Network, Sizes, networks_problem, parse_ip

POD_CIDR: Path = ("basalt", "cluster", "pod-cidr")
SERVICE_CIDR: Path = ("basalt", "cluster", "service-cidr")
NODE_IP: Path = ("basalt", "node", "ip")
NODE_IPV6: Path = ("basalt", "node", "ipv6")
API_ADDRESS: Path = ("basalt", "cluster", "api-address")
VIRTUAL_ADDRESS: Path = ("basalt", "cluster", "virtual-address")
TOKEN: Path = ("basalt", "cluster", "token")
BOOTSTRAP: Path = ("basalt", "cluster", "bootstrap")

DEFAULTS: Mapping[Path, str] = {POD_CIDR: Cluster.pod_cidr, SERVICE_CIDR: Cluster.service_cidr}

# The controller manager hands out at most 2^16 node networks, each a /24 and a /64. A million Services are enough for
# anybody; before version 1.34 the API server took no larger network.
PREFIXES: Mapping[Path, Sizes] = {
    POD_CIDR: {4: (8, 24), 6: (48, 64)},
    SERVICE_CIDR: {4: (12, 28), 6: (108, 120)},
}


class Rules:
    """One document under the rules.

    data:   value of the key ``basalt``
    failed: paths, as users see them, at which something is already wrong: rules that need them keep silent
    now:    when certificates have to be valid
    """

    def __init__(self, data: Any, places: Mapping[Path, Place], failed: set[str], now: datetime) -> None:
        self.data, self.places, self.now = data, places, now
        self.failed = set(failed)
        self.failures: list[Failure] = []

    def value(self, path: Path) -> Any:
        """Return what the document says at the path, None when it says nothing there or something wrong."""
        found = self.data
        for depth, key in enumerate(path[1:], start=1):
            if self.is_bad(path[: depth + 1]) or not isinstance(found, dict) or key not in found:
                return None
            found = found[key]
        return found

    def entries(self, path: Path) -> Iterator[tuple[Path, Any]]:
        """Return path and value of each good entry of a mapping or list."""
        found = self.value(path)
        pairs = found.items() if isinstance(found, dict) else enumerate(found or ())
        for key, value in pairs:
            if not self.is_bad((*path, key)):
                yield (*path, key), value

    def is_bad(self, path: Path) -> bool:
        """Whether something is already wrong at the path itself."""
        return show_path(path) in self.failed

    def bad_above(self, path: Path) -> bool:
        """Whether something is already wrong at the path or above it."""
        return any(self.is_bad(path[:depth]) for depth in range(1, len(path) + 1))

    def fail(self, code: Code, path: Path, found: str, remedy: str) -> None:
        """Note a failure; only the first one of a place counts."""
        shown = show_path(path)
        if shown in self.failed:
            return
        place = self.places.get(path)
        self.failed.add(shown)
        self.failures.append(Failure(code, shown, f"{place}: {found}" if place else found, remedy))

    @property
    def is_worker(self) -> bool:
        """Whether the machine is a worker."""
        return bool(self.value(("basalt", "role")) == Role.WORKER)

    @property
    def joins(self) -> bool:
        """Whether the machine becomes part of a cluster that another one starts."""
        return self.is_worker or (self.value(TOKEN) is not None and not self.value(BOOTSTRAP))

    def networks_at(self, path: Path) -> tuple[Network, ...]:
        """Return the networks at the path or the default: IPv4, then IPv6; none when the document has wrong ones."""
        text = self.value(path)
        if text is None:
            return () if self.bad_above(path) else (ip_network(DEFAULTS[path]),)
        if problem := networks_problem(text, PREFIXES[path]):
            self.fail(problem[0], path, problem[1], problem[2])
            return ()
        return tuple(ip_network(each) for each in text.split(","))

    def address(self, path: Path, text: str, version: int = 4) -> IPv4Address | IPv6Address | None:
        """Return the address, or note why it is none that a node or Service can have."""
        address = parse_ip(text)
        if address is None:
            example = "192.0.2.10" if version == 4 else "fd00::10"
            hint = " and without a prefix length" if "/" in text else ""
            self.fail(
                Code.BAD_ADDRESS,
                path,
                f"`{show(text)}` is no IP address",
                f"Write an IPv{version} address such as {example}, without leading zeros{hint}.",
            )
        elif address.version != version:
            remedy = f"Write an IPv{version} address."
            self.fail(Code.WRONG_FAMILY, path, f"{address} is IPv{address.version}", remedy)
        elif text != str(address):
            remedy = f"Write `{address}`."
            self.fail(Code.BAD_ADDRESS, path, f"{text} is {address}, written otherwise", remedy)
        elif any(address in network for network in UNUSABLE):
            self.fail(
                Code.BAD_ADDRESS,
                path,
                f"{address} cannot be reached by other machines",
                "Write another address.",
            )
        else:
            return address
        return None
