# SPDX-License-Identifier: Apache-2.0
"""Addresses of the node and of the API."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

from firstboot.codes import Code
from firstboot.rules.model import (
    API_ADDRESS,
    NODE_IP,
    NODE_IPV6,
    POD_CIDR,
    SERVICE_CIDR,
    VIRTUAL_ADDRESS,
    Rules,
)
from firstboot.schemacheck import show
from firstboot.strictyaml import Path
from firstboot.values import is_host_name, is_of_one_machine, parse_ip

VIRTUAL_ROUTER: Path = ("basalt", "cluster", "virtual-router-id")


def check(rules: Rules) -> None:
    """Note addresses that cannot be the node's or the API's."""
    _node_addresses(rules)
    _api_address(rules)
    _virtual_address(rules)


def _node_addresses(rules: Rules) -> None:
    """The node's addresses are some, and lie outside the cluster's own networks."""
    _outside_networks(rules, NODE_IP, "for the node")
    _outside_networks(rules, NODE_IPV6, "for the node", 6)


def _outside_networks(
    rules: Rules, own: Path, whose: str, version: int = 4
) -> IPv4Address | IPv6Address | None:
    """Return the address at a path if it is one that lies outside the cluster's networks, or note why not."""
    text = rules.value(own)
    address = None if text is None else rules.address(own, text, version)
    for path in (POD_CIDR, SERVICE_CIDR):
        networks = () if rules.bad_above(path) else rules.networks_at(path)
        network = next((each for each in networks if address is not None and address in each), None)
        if network is not None:
            rules.fail(
                Code.INSIDE_NETWORK,
                own,
                f"{address} lies in `{path[-1]}` {network}",
                f"Choose another `{path[-1]}`, or another address {whose}.",
            )
            return None
    return address


def _api_address(rules: Rules) -> None:
    """The API's address is a name or an address and nothing more."""
    path, text = API_ADDRESS, rules.value(API_ADDRESS)
    if text is None:
        return
    address = parse_ip(text)
    if address is not None:
        if not is_of_one_machine(address):
            rules.fail(
                Code.BAD_ADDRESS,
                path,
                f"{address} means another machine to each client",
                "Write an address that all clients reach.",
            )
        return
    if is_host_name(text):
        return
    remedy = "Write a host name or an IP address."
    if "://" in text or re.search(r":\d+$", text):
        remedy = "Write only the host name or address, without scheme and port."
    rules.fail(Code.BAD_ADDRESS, path, f"`{show(text)}` is no host name and no address", remedy)


def _virtual_address(rules: Rules) -> None:
    """The address that control planes carry is no machine's own, and its router id is for nothing else."""
    address = _outside_networks(rules, VIRTUAL_ADDRESS, "for the API")
    if address is not None and rules.value(NODE_IP) == str(address):
        rules.fail(
            Code.BAD_ADDRESS,
            VIRTUAL_ADDRESS,
            f"{address} is this machine's own `node.ip`",
            "Choose an address of the same network that no machine has.",
        )
    alone = rules.value(VIRTUAL_ROUTER) is not None and rules.value(VIRTUAL_ADDRESS) is None
    if alone and not rules.bad_above(VIRTUAL_ADDRESS):
        remedy = "Write `virtual-address` too, or remove `virtual-router-id`."
        rules.fail(Code.BAD_VALUE, VIRTUAL_ROUTER, "there is no `virtual-address`", remedy)
