# SPDX-License-Identifier: Apache-2.0
"""Cluster DNS and ingress."""

from __future__ import annotations

from ipaddress import ip_network

from firstboot.codes import Code
from firstboot.config import DNS_ADDRESS_INDEX
from firstboot.rules.model import SERVICE_CIDR, Rules
from firstboot.schemacheck import show
from firstboot.strictyaml import Path
from firstboot.values import parse_ip, split_port

DNS_IP: Path = ("basalt", "features", "dns", "service-ip")
INGRESS: Path = ("basalt", "features", "ingress")


def check(rules: Rules) -> None:
    """Note what is wrong with the settings of these features."""
    _dns(rules)
    _ingress(rules)


def _dns(rules: Rules) -> None:
    """Cluster DNS has an address of the service network that nothing else has; it does not ask itself."""
    text = rules.value(DNS_IP)
    services = None if rules.is_bad(SERVICE_CIDR) else next(iter(rules.networks_at(SERVICE_CIDR)), None)
    address = None if text is None else rules.address(DNS_IP, text)
    if address is not None and services is not None:
        if address not in services:
            rules.fail(
                Code.OUTSIDE_NETWORK,
                DNS_IP,
                f"{address} is not in the service network {services}",
                f"Choose one of its addresses, e.g. {services[DNS_ADDRESS_INDEX]}, or remove the key.",
            )
        elif address in (services[0], services[1], services[-1]):
            use = "the Service `kubernetes`" if address == services[1] else "the network itself"
            rules.fail(
                Code.BAD_ADDRESS,
                DNS_IP,
                f"{address} belongs to {use}",
                f"Choose another address of {services}, e.g. {services[DNS_ADDRESS_INDEX]}.",
            )
    _nameservers(rules, text or (str(services[DNS_ADDRESS_INDEX]) if services else ""))


def _nameservers(rules: Rules, own: str) -> None:
    for path, text in rules.entries(("basalt", "features", "dns", "upstream-nameservers")):
        host, port = split_port(text)
        if parse_ip(host) is None or not 0 < port <= 65535:
            rules.fail(
                Code.BAD_ADDRESS,
                path,
                f"`{show(text)}` is no IP address",
                "Write an IP address, with a port where it is not 53, e.g. `192.0.2.53:5353`.",
            )
        elif host == own:
            rules.fail(
                Code.BAD_ADDRESS,
                path,
                f"{host} is cluster DNS itself",
                "Name servers that know the names outside the cluster.",
            )


def _ingress(rules: Rules) -> None:
    """Proxies that tell who asks are known, and then believed."""
    enabled, trusted = INGRESS + ("enable-proxy-protocol",), INGRESS + ("trusted-proxies",)
    listed = list(rules.entries(trusted))
    for path, text in listed:
        try:
            ip_network(text)
        except ValueError:
            rules.fail(
                Code.BAD_NETWORK,
                path,
                f"`{show(text)}` is no address and no network",
                "Write an address or a network without host bits, e.g. `192.0.2.10` or `192.0.2.0/24`.",
            )
    if rules.value(enabled) is True and not listed and not rules.is_bad(trusted):
        rules.fail(
            Code.MISSING_KEY,
            trusted,
            "nobody is named who may tell who asks",
            "Name the proxies before the nodes. Whoever is named can claim any address.",
        )
