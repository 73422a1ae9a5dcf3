# SPDX-License-Identifier: Apache-2.0
"""What flannel has made for a backend that the cluster does not use any more.

flanneld leaves interfaces and routes behind when it ends, so that packets go on while it is started again. Those of
another backend would win: a route to one node's pod network is narrower than wireguard's, which leads to all of them,
so packets would go on unencrypted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import ClassVar

from firstboot import files, run
from firstboot.config import NetworkBackend
from firstboot.steps.model import Finding, Machine

LINKS: dict[NetworkBackend, tuple[str, ...]] = {
    NetworkBackend.VXLAN: ("flannel.1", "flannel-v6.1"),
    NetworkBackend.HOST_GW: (),
    NetworkBackend.WIREGUARD: ("flannel-wg", "flannel-wg-v6"),
}
"""The names that flannel gives to interfaces, by the backend they are for."""
SECONDS = 20.0
"""How long one change of the kernel's tables may take on a machine that is busy."""
IPV6_GATEWAY_FIELD, IPV6_DEVICE_FIELD = 4, 9

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class OtherBackends:
    """Interfaces of backends that are not used are gone, and routes of host-gw where that is not used.

    backend:  the one in use; None while the feature network is off
    networks: of all pods, e.g. ``10.1.0.0/16``
    root:     where /sys and /proc are
    """

    backend: NetworkBackend | None
    networks: tuple[str, ...]
    root: Path = Path("/")
    name: str = "backends"
    needs: tuple[str, ...] = ()
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Look at the kernel's tables."""
        found = await asyncio.to_thread(lambda: [*self._links(), *self._routes()])
        if not found:
            return None
        used = f"the backend is {self.backend}" if self.backend else "the feature network is off"
        return Finding("pod network", "remove", f"{used}: {', '.join(map(str, found))} is of another one")

    async def apply(self, machine: Machine) -> None:
        """Remove them; routes through an interface go with it."""
        for link in self._links():
            await run.run_async(["ip", "link", "delete", "dev", link], timeout=SECONDS)
        for route in self._routes():
            await run.run_async(["ip", f"-{route.version}", "route", "delete", str(route)], timeout=SECONDS)

    def _links(self) -> list[str]:
        others = [link for backend, each in LINKS.items() if backend is not self.backend for link in each]
        return [link for link in others if (self.root / "sys/class/net" / link).exists()]

    def _routes(self) -> list[Network]:
        """Return routes to other nodes' pod networks by way of these nodes, as only host-gw makes them."""
        if self.backend is NetworkBackend.HOST_GW:
            return []
        own = [ip_network(network) for network in self.networks]
        names = [link for each in LINKS.values() for link in each]
        return [
            network
            for network, device in _through_gateways(self.root / "proc/net")
            if device not in names
            and any(network.version == each.version and network.subnet_of(each) for each in own)  # type: ignore[arg-type]
        ]


def _through_gateways(folder: Path) -> Iterator[tuple[Network, str]]:
    """Return each route that has a gateway, and its interface; see proc_net_route(5) and the kernel's ipv6_route."""
    for line in _lines(folder / "route")[1:]:
        device, network, gateway, _, _, _, _, mask, *_ = line.split()
        if int(gateway, 16):
            yield IPv4Network((_ipv4(network), str(_ipv4(mask)))), device
    for line in _lines(folder / "ipv6_route"):
        fields = line.split()
        if int(fields[IPV6_GATEWAY_FIELD], 16):
            address = IPv6Address(bytes.fromhex(fields[0]))
            yield IPv6Network((address, int(fields[1], 16))), fields[IPV6_DEVICE_FIELD]


def _lines(path: Path) -> list[str]:
    return (files.read_or_none(path) or b"").decode().splitlines()


def _ipv4(text: str) -> IPv4Address:
    """Read an address as the kernel prints it: the number that its bytes are to a little-endian processor."""
    return IPv4Address(bytes.fromhex(text)[::-1])
