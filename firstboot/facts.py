# SPDX-License-Identifier: Apache-2.0
"""What the machine is, as far as the document and the status need it. Gathered anew each time: some 30 ms."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_interface
from pathlib import Path
from typing import Any

from firstboot.run import run

CLUSTER_INTERFACES = ("cni", "flannel", "veth", "kube-", "basalt-", "nodelocal")
"""How the names of the interfaces begin that Basalt and its components make; the list of
60-kubernetes.link."""

FOREIGN_PROTOCOLS = ("kernel", "dhcp", "ra", "static")
"""Routes made by kernel and networkd. flannel's own (host-gw) are not among them."""

CARRIED = "keepalived"
"""Who has put an address on an interface, in the words of `ip`: it is the cluster's, and may be elsewhere soon."""

UNIQUE_LOCAL = IPv6Network("fc00::/7")

SLOT_A_LAST = 4
"""Last partition of slot A on the disk: 1 is the ESP, 2 to 4 are slot A, 5 to 7 slot B (repart.d)."""

TIMEOUT = 20.0
"""Seconds that `ip` may take on a machine which is busy starting."""


@dataclass(frozen=True)
class Facts:
    """One look at the machine.

    addresses:       interface -> ``address/prefix``, global scope only, without the cluster's own interfaces and the
    virtual address
    routes:          (destination network, interface), without default routes and the cluster's own
    default_address: the IPv4 address other machines reach this one by: that of the default route, else the
    first
    memory:          bytes
    mtus:            interface -> MTU, of those in ``links``
    links:           every interface but the loopback and the cluster's own, with an address or without
    image_version:   empty when the system is no Basalt image
    image_slot:      ``A`` or ``B``, empty when /usr is no partition of ours
    """

    hostname: str
    addresses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    routes: tuple[tuple[str, str], ...] = ()
    default_address: str | None = None
    memory: int = 0
    cpus: int = 1
    boot_id: str = ""
    machine_id: str = ""
    image_version: str = ""
    image_slot: str = ""
    links: tuple[str, ...] = ()
    mtus: dict[str, int] = field(default_factory=dict)

    @classmethod
    def gather(cls, root: Path = Path("/")) -> Facts:
        """Look at the machine.

        root: where /proc, /sys and /etc are; addresses and routes always are those of this machine

        Raises firstboot.run.RunError when `ip` fails.
        """
        links = _ip("address", "show")
        routes = [*_ip("route", "show"), *_ip("-6", "route", "show")]
        addresses = _addresses(links)
        others = [
            link for link in links if link.get("ifname", "lo") != "lo" and not _is_clusters(link["ifname"])
        ]
        return cls(
            hostname=_text(root / "proc/sys/kernel/hostname") or socket.gethostname(),
            addresses=addresses,
            routes=tuple(_routes(routes)),
            default_address=_default_address(addresses, routes),
            memory=_memory(root),
            cpus=_cpus(root),
            boot_id=_text(root / "proc/sys/kernel/random/boot_id"),
            machine_id=_text(root / "etc/machine-id"),
            image_version=os_release(root).get("IMAGE_VERSION", ""),
            image_slot=_slot(root),
            links=tuple(link["ifname"] for link in others),
            mtus={link["ifname"]: link["mtu"] for link in others if "mtu" in link},
        )

    @property
    def interfaces(self) -> tuple[tuple[str, str], ...]:
        """Each address with its prefix after the interface that has it."""
        return tuple((name, address) for name, each in self.addresses.items() for address in each)

    @property
    def named_addresses(self) -> tuple[tuple[str, str], ...]:
        """Each address, without prefix, after the interface that has it."""
        return tuple((name, address.partition("/")[0]) for name, address in self.interfaces)

    def card(self, address: str) -> str | None:
        """Return the interface to whose network a host with this address belongs, None where there is none."""
        wanted = ip_address(address)
        networks = ((name, ip_interface(own).network) for name, own in self.interfaces)
        return next(
            (name for name, each in networks if wanted in each and wanted not in (each[0], each[-1])), None
        )

    def having(self, address: str) -> str | None:
        """Return the interface that has an address, None where none has it."""
        return next((name for name, own in self.named_addresses if own == address), None)

    def ipv6_beside(self, address: str) -> str | None:
        """Return the IPv6 address to use on the interface that has this one, None where there is none.

        One that is local to the site changes less often than one of a provider's network, so it comes first.
        """
        found = [each.ip for each in map(ip_interface, self.addresses.get(self.having(address) or "", ()))]
        known = sorted(each for each in found if isinstance(each, IPv6Address))
        return next((str(each) for each in sorted(known, key=lambda each: each not in UNIQUE_LOCAL)), None)

    @property
    def own_addresses(self) -> tuple[str, ...]:
        """Every address, without prefix and in canonical form."""
        return tuple(address for _, address in self.named_addresses)


def mtu(address: str) -> int | None:
    """Return the MTU of the interface that has an address, None where none has it. Raises RunError."""
    return next((int(link["mtu"]) for link in _ip("address", "show", "to", address) if "mtu" in link), None)


def os_release(root: Path = Path("/")) -> dict[str, str]:
    """Return /etc/os-release, or /usr/lib/os-release, as a dict."""
    text = _text(root / "etc/os-release") or _text(root / "usr/lib/os-release")
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key: value.strip().strip("\"'") for key, _, value in pairs}


def _ip(*arguments: str) -> list[dict[str, Any]]:
    """Return what `ip` says as JSON; nothing at all means none."""
    output = run(["ip", "-json", *arguments], timeout=TIMEOUT).stdout.strip()
    found: list[dict[str, Any]] = json.loads(output or "[]")
    return found


def _is_clusters(name: str) -> bool:
    return name.startswith(CLUSTER_INTERFACES)


def _addresses(links: list[dict[str, Any]]) -> dict[str, tuple[str, ...]]:
    found = {link["ifname"]: tuple(_global(link)) for link in links if "ifname" in link}
    return {name: each for name, each in found.items() if each and not _is_clusters(name)}


def _global(link: dict[str, Any]) -> Iterator[str]:
    for info in link.get("addr_info", ()):
        # A tentative or failed duplicate cannot be used; a temporary one changes by itself, and what is carried moves.
        unusable = info.get("dadfailed") or info.get("tentative") or info.get("temporary")
        unusable = unusable or info.get("protocol") == CARRIED
        if info.get("scope") == "global" and "local" in info and not unusable:
            yield f"{info['local']}/{info['prefixlen']}"


def _routes(routes: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for route in routes:
        destination, name = route.get("dst", "default"), route.get("dev", "")
        if destination == "default" or _is_clusters(name) or route.get("protocol") not in FOREIGN_PROTOCOLS:
            continue
        if route.get("type", "unicast") == "unicast" and not destination.startswith("fe80"):
            yield destination, name


def _default_address(addresses: dict[str, tuple[str, ...]], routes: list[dict[str, Any]]) -> str | None:
    """Return the address that the kernel would use towards the outside, else the first of any interface."""
    ways = sorted(
        (route for route in routes if route.get("dst") == "default"), key=lambda route: route.get("metric", 0)
    )
    for way in ways:
        candidates = _ipv4(addresses.get(way.get("dev", ""), ()))
        if way.get("prefsrc") in candidates:
            return str(way["prefsrc"])
        if candidates:
            return candidates[0]
    others = [address for name, each in addresses.items() if name != "lo" for address in _ipv4(each)]
    return others[0] if others else None


def _ipv4(addresses: tuple[str, ...]) -> list[str]:
    interfaces = (ip_interface(address) for address in addresses)
    return [str(each.ip) for each in interfaces if isinstance(each.ip, IPv4Address)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _memory(root: Path) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _cpus(root: Path) -> int:
    """Count the processors in a list such as ``0-3,6``."""
    online = _text(root / "sys/devices/system/cpu/online") or "0"
    spans = (span.partition("-") for span in online.split(","))
    return sum(int(last or first) - int(first) + 1 for first, _, last in spans)


def _slot(root: Path) -> str:
    """Return the slot /usr comes from: its verity device lies on partitions whose numbers tell."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[4] == "/usr":
            parts = (root / "sys/dev/block" / fields[2] / "slaves").glob("*/partition")
            numbers = [int(_text(part)) for part in parts]
            return "" if not numbers else "A" if max(numbers) <= SLOT_A_LAST else "B"
    return ""
