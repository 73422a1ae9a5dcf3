# SPDX-License-Identifier: Apache-2.0
"""What single values mean, without a document around them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from firstboot.codes import Code
from firstboot.schemacheck import show

Network = IPv4Network | IPv6Network
Sizes = Mapping[int, tuple[int, int]]
"""By IP version: the shortest and the longest prefix that a network may have."""

UNUSABLE = tuple(
    ip_network(each)
    for each in (
        *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
        # Loopback, addresses of IPv4 in clothes of IPv6, and what translates between the two.
        "::/8",
        "fe80::/10",
        "ff00::/8",
    )
)
"""Addresses that nothing in a cluster can have."""

HOST_NAME = re.compile(
    r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?)*"
)

ZONE_LABEL = "topology.kubernetes.io/zone"
"""Of a Node: what may fail together with it, such as a rack or a data centre."""
OPEN_LABELS = {"topology.kubernetes.io/region", ZONE_LABEL}
OPEN_LABEL_DOMAINS = ("node.kubernetes.io", "kubelet.kubernetes.io")


Problem = tuple[Code, str, str]
"""Code, finding and remedy."""


def networks_problem(text: str, sizes: Sizes) -> Problem | None:
    """Return what is wrong with a text that is no IPv4 network, and no IPv4 and IPv6 network with a comma between."""
    parts = text.split(",")
    for part in parts:
        if problem := network_problem(part, sizes):
            return problem
    if len(parts) > 2:
        found, remedy = (
            f"there are {len(parts)} networks",
            "Write an IPv4 network, or one and an IPv6 network.",
        )
        return Code.BAD_NETWORK, found, remedy
    if ip_network(parts[0]).version != 4:
        remedy = (
            "Write an IPv4 network, in a dual-stack cluster with the IPv6 one behind it and a comma between."
        )
        return Code.WRONG_FAMILY, f"{parts[0]}, the first network, is IPv6", remedy
    if len(parts) > 1 and ip_network(parts[1]).version != 6:
        remedy = "Write an IPv6 network behind the comma, or only the first network."
        return Code.WRONG_FAMILY, f"{parts[1]}, the second network, is IPv4", remedy
    return None


def network_problem(text: str, sizes: Sizes) -> Problem | None:
    """Return what is wrong with a text that is no network of a useful size, else None."""
    if text != text.strip():
        return (
            Code.BAD_NETWORK,
            "there is a blank beside a network",
            "Write them with a comma and nothing else.",
        )
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return (
            Code.BAD_NETWORK,
            f"`{show(text)}` is no network",
            "Write one in CIDR notation, e.g. `10.1.0.0/16`.",
        )
    address, _, prefix = text.partition("/")
    shortest, longest = sizes[network.version]
    if not prefix.isdecimal():
        return (
            Code.BAD_NETWORK,
            f"`{show(text)}` has no prefix length",
            f"Write the length, e.g. `{address}/{max(16, shortest)}`.",
        )
    if parse_ip(address) != network.network_address:
        return Code.HOST_BITS, f"{text} is an address inside of {network}", f"Write `{network}`."
    # The settings of a cluster are compared as text.
    if text != str(network):
        return Code.BAD_NETWORK, f"{text} is {network}, written otherwise", f"Write `{network}`."
    if not shortest <= network.prefixlen <= longest:
        size = "small" if network.prefixlen > longest else "large"
        return (
            Code.NETWORK_SIZE,
            f"{network} is too {size}",
            f"Choose a prefix length from {shortest} to {longest}.",
        )
    if any(network.overlaps(each) for each in UNUSABLE):
        return (
            Code.BAD_NETWORK,
            f"{network} has addresses with a special meaning",
            "Choose a private network.",
        )
    return None


def is_restricted(label: str) -> bool:
    """Whether the API server would refuse the label from a node, or the kubelet would overwrite it."""
    domain, slash, _ = label.rpartition("/")
    ours = any(domain == each or domain.endswith(f".{each}") for each in ("kubernetes.io", "k8s.io"))
    if not slash or not ours or label in OPEN_LABELS:
        return False
    return not any(domain == each or domain.endswith(f".{each}") for each in OPEN_LABEL_DOMAINS)


def is_of_one_machine(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address means the same machine to everybody who sends packets to it."""
    return not (address.is_loopback or address.is_unspecified or address.is_multicast)


def parse_ip(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address, None for text that is none; a zone index is refused."""
    try:
        return None if "%" in text else ip_address(text)
    except ValueError:
        return None


def is_host_name(text: str) -> bool:
    """Whether the text is a name of DNS and not an address that is mistyped."""
    return HOST_NAME.fullmatch(text) is not None and not re.fullmatch(r"[0-9.]+", text)


def split_port(text: str, default: int = 53) -> tuple[str, int]:
    """Split ``host:port`` or ``[v6]:port``; a host alone gets the default port, a bad port is -1."""
    if parse_ip(text) is not None or ":" not in text:
        return text, default
    host, _, port = text.rpartition(":")
    number = int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else -1
    return host.removeprefix("[").removesuffix("]"), number


def bracketed(host: str) -> str:
    """Return a host as it stands in a URL or before a port."""
    return f"[{host}]" if ":" in host else host


def endpoint_url(text: str) -> SplitResult | None:
    """Return the parts of ``https://host:port``, None for any other text."""
    url = split_url(text)
    if url is None or url.scheme != "https" or url.port is None or url.username is not None:
        return None
    host = str(url.hostname)
    named = parse_ip(host) is not None or is_host_name(host)
    return url if named and not (url.path or url.query or url.fragment) else None


def split_url(text: str) -> SplitResult | None:
    """Return the parts of a URL with a host, None when it has none or a port that is no number."""
    try:
        url = urlsplit(text)
        usable = bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        return None
    return url if usable else None
