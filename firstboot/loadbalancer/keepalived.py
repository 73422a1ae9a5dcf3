# SPDX-License-Identifier: Apache-2.0
"""Layer 2: keepalived's configuration, with one election by VRRP for each address.

The nodes tell each other, to the address of each, who carries an address; nobody asks the API server. Each address has
an instance of its own, so that configurations which two nodes take up at different moments still agree about it. It is
known by the last part of the address.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface

from firstboot.loadbalancer.addresses import Address, router_id
from firstboot.loadbalancer.speaker import Duty

GLOBAL = """\
global_defs {
    vrrp_version 3
    vrrp_check_unicast_src
    vrrp_garp_master_refresh 60
    max_auto_priority -1
}
"""


@dataclass(frozen=True)
class Cards:
    """The interfaces of a node.

    ip:     by which other nodes reach it
    own:    (interface, ``address/prefix``), as facts have it
    chosen: interfaces that the cluster's settings name and the node has; empty where they name none
    ipv6:   as ip, for IPv6, where the cluster has it
    """

    ip: str
    own: tuple[tuple[str, str], ...]
    chosen: tuple[str, ...] = ()
    ipv6: str | None = None

    def place(self, address: Address) -> str | None:
        """Return the interface to put an address on; None where the node has no interface that it knows."""
        usable = [each for each in self.own if not self.chosen or each[0] in self.chosen]
        inside = (name for name, own in usable if address in ip_interface(own).network)
        default = (name for name, own in self.own if str(ip_interface(own).ip) == self.ip)
        return next(inside, None) or next(iter(self.chosen), None) or next(default, None)

    def connected(self, address: Address) -> bool:
        """Whether the address is one of a network that the node is connected to."""
        return any(address in ip_interface(own).network for _, own in self.own)


def configuration(duties: Iterable[Duty], nodes: Iterable[str], cards: Cards) -> str:
    """Return the text; nodes: addresses of all nodes that may carry some."""
    partners = sorted({*nodes} - {cards.ip}, key=ip_address)
    placed = ((duty, cards.place(duty.address)) for duty in duties)
    return GLOBAL + "".join(_instance(duty, card, partners, cards.ip) for duty, card in placed if card)


def _instance(duty: Duty, card: str, partners: Sequence[str], own: str) -> str:
    # What is sent to the address by who carries it never leaves the machine; without a partner it would be multicast.
    peers = "\n".join(f"        {each}" for each in partners or [own])
    return f"""\
vrrp_instance {duty.address} {{
    state BACKUP
    virtual_router_id {router_id(duty.address)}
    priority {duty.priority}
    advert_int 1
    unicast_src_ip {own}
    unicast_peer {{
{peers}
    }}
{_addresses(duty.address, card)}}}
"""


def _addresses(address: Address, card: str) -> str:
    carried = f"        {address}/{address.max_prefixlen} dev {card}\n"
    if address.version == 4:
        return f"    virtual_ipaddress {{\n{carried}    }}\n"
    # Nodes speak by IPv4, and by that of no address of IPv6, but of some they have to: of one that no wire has.
    return f"""\
    virtual_ipaddress {{
        127.0.112.{router_id(address)}/32 dev lo scope host
    }}
    virtual_ipaddress_excluded {{
{carried}    }}
"""
