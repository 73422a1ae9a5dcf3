# SPDX-License-Identifier: Apache-2.0
"""The one way from a document to a Config, with every mistake in it named at once.

The same check runs on a node, in the image's tests and on a workstation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from firstboot import document, schema
from firstboot.codes import Code
from firstboot.config import Config, Role
from firstboot.failure import DocumentError, Failure
from firstboot.loadbalancer import rules as balanced
from firstboot.rules import order
from firstboot.rules.model import NODE_IP, NODE_IPV6, POD_CIDR, SERVICE_CIDR, VIRTUAL_ADDRESS, Rules
from firstboot.schemacheck import Check
from firstboot.strictyaml import Path, Place, show_path

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    from firstboot.facts import Facts

SCHEMA = "user-data"

LEAST_MEMORY: Mapping[Role, int] = {Role.CONTROL_PLANE: 1400 * 1024**2, Role.WORKER: 700 * 1024**2}
"""Bytes as the kernel counts them: some 7 % less than a virtual machine was given."""


def check_file(path: FilePath) -> dict[str, Any]:
    """Return the checked value of ``basalt`` in a file. Raises DocumentError."""
    try:
        with path.open("rb") as file:
            content = file.read(document.MAX_BYTES + 1)
    except OSError as error:
        raise DocumentError(
            [
                Failure(
                    Code.UNREADABLE,
                    str(path),
                    f"cannot be read: {error.strerror}",
                    "Check the path and its rights.",
                )
            ]
        ) from None
    return check_bytes(content, str(path))


def validate_file(path: FilePath | str) -> Config:
    """Return the Config of a file. Raises DocumentError."""
    return Config.from_dict(check_file(FilePath(path)))


def check_bytes(content: bytes, origin: str) -> dict[str, Any]:
    """Return the checked value of ``basalt`` in a file's content. Raises DocumentError."""
    return check_yaml(document.decode(content, origin), origin)


def check_yaml(text: str, origin: str) -> dict[str, Any]:
    """Return the checked value of ``basalt`` in a text. Raises DocumentError with all failures."""
    parsed = document.parse(text, origin)
    failures = merge(parsed.failures, check_document(parsed.data, parsed.places, parsed.failures))
    if failures:
        lines = {show_path(path): place.line for path, place in parsed.places.items()}
        raise DocumentError(sorted(failures, key=lambda failure: lines.get(failure.path, 0)))
    checked: dict[str, Any] = parsed.data
    return checked


def check_data(data: Any, now: datetime | None = None) -> dict[str, Any]:
    """Return the value of ``basalt``, given as data, if it is right. Raises DocumentError."""
    failures = check_document(data, now=now)
    if failures:
        raise DocumentError(failures)
    checked: dict[str, Any] = data
    return checked


def check_text(text: str, origin: str) -> Config:
    """Return the Config of a text that came from the origin. Raises DocumentError."""
    return Config.from_dict(check_yaml(text, origin))


def check_document(
    data: Any,
    places: Mapping[Path, Place] | None = None,
    known: Iterable[Failure] = (),
    now: datetime | None = None,
) -> list[Failure]:
    """Return what is wrong with the value of ``basalt``, at most one failure per place.

    places: where values stand in the text, for line numbers
    known:  failures found before; their places are not looked at again
    now:    when its certificates have to be valid; None means today
    """
    where, before = places or {}, {failure.path for failure in known}
    found = Check(schema.load(SCHEMA), where).failures(data, (document.KEY,))
    failed = before | {failure.path for failure in found}
    rules = order.check(Rules(data, where, failed, now or datetime.now(UTC)))
    return [failure for failure in merge(found, rules) if failure.path not in before]


def merge(*found: Iterable[Failure]) -> list[Failure]:
    """Return all, but only the first failure of each path."""
    by_path: dict[str, Failure] = {}
    for failure in chain.from_iterable(found):
        by_path.setdefault(failure.path, failure)
    return list(by_path.values())


def check_facts(config: Config, facts: Facts) -> list[Failure]:
    """Return what keeps this node from being what the document says; any of it can change while it runs."""
    return merge(
        (*_node_address(config, facts), *_node_ipv6(config, facts), *_listen_address(config, facts)),
        (*_networks_taken(config, facts), *_virtual_address(config, facts), *_memory(config, facts)),
        balanced.check_facts(config.features.load_balancer, facts),
    )


def _node_address(config: Config, facts: Facts) -> Iterator[Failure]:
    own = facts.own_addresses
    if config.node.ip is not None and config.node.ip not in own:
        listed = ", ".join(f"{address} ({name})" for name, address in facts.named_addresses) or "none"
        yield Failure(
            Code.NOT_ON_NODE,
            show_path(NODE_IP),
            f"no interface has {config.node.ip}; the node has {listed}",
            "Write one of these, or give the address to an interface.",
        )
    elif config.node.ip is None and facts.default_address is None:
        yield Failure(
            Code.NO_ADDRESS,
            show_path(NODE_IP),
            "the node has no IPv4 address yet",
            "Connect it to a network with DHCP, or give it an address by cloud-init's network configuration.",
        )


def _node_ipv6(config: Config, facts: Facts) -> Iterator[Failure]:
    """Yield why the machine has no IPv6 address for a dual-stack cluster, which it may get by itself soon."""
    wanted, beside = config.node.ipv6, config.node.ip or facts.default_address
    card = facts.having(beside) if beside else None
    if not config.cluster.is_dual_stack or card is None:
        return
    own = facts.having(wanted) if wanted else None
    if wanted is not None and own != card:
        has = f"{own} has {wanted}" if own else f"no interface has {wanted}"
        yield Failure(
            Code.NOT_ON_NODE,
            show_path(NODE_IPV6),
            f"{has}; the nodes' packets go by {card}, which has {beside}",
            f"Write an IPv6 address that {card} has, or give it this one.",
        )
    elif wanted is None and facts.ipv6_beside(str(beside)) is None:
        yield Failure(
            Code.NO_ADDRESS,
            show_path(NODE_IPV6),
            f"{card} has no IPv6 address yet but those of its own link, and the cluster has IPv6 networks",
            "Connect it to a network with router advertisements or DHCPv6, or give it an address by cloud-init's "
            "network configuration.",
        )


def _listen_address(config: Config, facts: Facts) -> Iterator[Failure]:
    from ipaddress import ip_address

    host = ip_address(config.status.host)
    if not host.is_unspecified and not host.is_loopback and str(host) not in facts.own_addresses:
        yield Failure(
            Code.NOT_ON_NODE,
            "basalt.status.listen",
            f"no interface has {host}",
            "Write an address that the node has, or 0.0.0.0 for all of them.",
        )


def _networks_taken(config: Config, facts: Facts) -> Iterator[Failure]:
    """Yield a failure for each network of the cluster that overlaps with one of the node's."""
    from ipaddress import ip_network

    pods, services = config.cluster.pod_networks, config.cluster.service_networks
    for path, text in (*((POD_CIDR, each) for each in pods), *((SERVICE_CIDR, each) for each in services)):
        network = ip_network(text)
        taken = next(_taken(network, facts), None)
        if taken:
            yield Failure(
                Code.NETWORK_TAKEN,
                show_path(path),
                f"{network} overlaps with {taken}, to which the node is connected",
                "Choose a network that nothing else uses.",
            )


def _virtual_address(config: Config, facts: Facts) -> Iterator[Failure]:
    """Yield why the machine must not, or could not, carry the cluster's virtual address."""
    from ipaddress import ip_interface

    address, path = config.cluster.virtual_address, show_path(VIRTUAL_ADDRESS)
    if address is None:
        return
    if address in facts.own_addresses:
        yield Failure(
            Code.BAD_ADDRESS,
            path,
            f"{address} is this machine's own",
            "Choose an address of the same network that no machine has.",
        )
    elif config.role.has_control_plane and facts.addresses and facts.card(address) is None:
        networks = ", ".join(f"{ip_interface(own).network} ({name})" for name, own in facts.interfaces)
        yield Failure(
            Code.NOT_CONNECTED,
            path,
            f"{address} is no host of a network that the node is connected to: {networks}",
            "Choose an address of a network that all control planes share.",
        )


def _taken(network: IPv4Network | IPv6Network, facts: Facts) -> Iterator[str]:
    from ipaddress import ip_interface, ip_network

    for name, address in facts.interfaces:
        connected = ip_interface(address).network
        if connected.version == network.version and connected.overlaps(network):
            yield f"{connected} on {name}"
    # A wide route to elsewhere (10.0.0.0/8 to the company) may contain the network; a narrow one cuts a hole
    # in it.
    for destination, name in facts.routes:
        route = ip_network(destination)
        if route.version == network.version and route.subnet_of(network):  # type: ignore[arg-type]
            yield f"{route} by {name}"


def _memory(config: Config, facts: Facts) -> Iterator[Failure]:
    least = LEAST_MEMORY[config.role]
    if facts.memory < least:
        yield Failure(
            Code.LITTLE_MEMORY,
            "basalt.role",
            f"{facts.memory // 1024**2} MiB of memory, but a {config.role} needs {least // 1024**2} MiB",
            "Give the machine more memory.",
        )
