# SPDX-License-Identifier: Apache-2.0
"""What single values mean, without a document around them."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from firstboot.codes import Code
from firstboot.schemacheck import show

UNUSABLE = tuple(
    ip_network(each) for each in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
)

HOST_NAME = re.compile(
    r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?)*"
)

ZONE_LABEL = "topology.kubernetes.io/zone"
"""Of a Node: what may fail together with it, such as a rack or a data centre."""
OPEN_LABELS = {"topology.kubernetes.io/region", ZONE_LABEL}
OPEN_LABEL_DOMAINS = ("node.kubernetes.io", "kubelet.kubernetes.io")


def network_problem(text: str, longest: int, shortest: int) -> tuple[Code, str, str] | None:
    """Return code, finding and remedy for a text that is no network of a useful size, else None."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return (
            Code.BAD_NETWORK,
            f"`{show(text)}` is no network",
            "Write one in CIDR notation, e.g. `10.1.0.0/16`.",
        )
    address, _, prefix = text.partition("/")
    if isinstance(network.network_address, IPv6Address):
        return Code.WRONG_FAMILY, f"{network} is IPv6", "Write an IPv4 network."
    if not prefix.isdecimal():
        return (
            Code.BAD_NETWORK,
            f"`{show(text)}` has no prefix length",
            f"Write the length, e.g. `{address}/16`.",
        )
    if parse_ip(address) != network.network_address:
        return Code.HOST_BITS, f"{text} is an address inside of {network}", f"Write `{network}`."
    if not longest <= network.prefixlen <= shortest:
        size = "small" if network.prefixlen > shortest else "large"
        return (
            Code.NETWORK_SIZE,
            f"{network} is too {size}",
            f"Choose a prefix length from {longest} to {shortest}.",
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
