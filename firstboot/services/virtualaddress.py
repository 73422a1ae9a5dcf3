# SPDX-License-Identifier: Apache-2.0
"""The API's virtual address: keepalived has one control plane carry it, and another one when that is not ready.

The control planes tell each other by VRRP, to the address of each, that somebody carries it. Two units are needed:
keepalived may change addresses and nothing else; whether the API server is ready it reads from a file, which the
watch (firstboot.apiwatch) writes with no rights at all.
"""

from __future__ import annotations

from ipaddress import ip_address

from firstboot import files
from firstboot.carrier import Carrier
from firstboot.files import File
from firstboot.loadbalancer import addresses
from firstboot.paths import API_VERDICT, KUBERNETES
from firstboot.pki.catalogue import service_names
from firstboot.probes import FileProbe
from firstboot.services.model import Node, Service

UNIT, WATCH = "virtual-address", "virtual-address-watch"
CONFIGURED = f"files:{UNIT}"
"""The step that gives keepalived its configuration: that is no input of the unit, which is told of a new one."""
INTRODUCED = f"partners:{UNIT}"
"""The step after which the other control planes would tell this one that they carry the address."""
CONFIG = KUBERNETES / "virtual-address.conf"
FIRST, APART = 250, 15
"""Priority of the first control plane, and how much less each further one has: some 60 ms that it waits longer."""


def services(node: Node) -> tuple[Service, ...]:
    """Return the two services of a control plane whose cluster has such an address, else none."""
    address = node.config.cluster.virtual_address
    if address is None:
        return ()
    everybodys = {*service_names(node.config), "localhost", *node.config.cluster.api_hosts}
    return (
        Service(WATCH, FileProbe(API_VERDICT, "has not asked the API server yet")),
        Service(UNIT, Carrier(address, node.name, frozenset(everybodys)), needs=(CONFIGURED, INTRODUCED)),
    )


def configuration(node: Node) -> File:
    """Return keepalived's configuration.

    Nobody takes the address from one who carries it (nopreempt), whatever his priority: it stays where it is until
    that machine is not ready, or silent for three seconds. Of several that then want it, the first by address waits
    the shortest. VRRP knows no authentication; what does not come from the address of a partner does not count.

    The partners' addresses may be in another network than the virtual one, so VRRP is bound to no interface. A card
    that the virtual address belongs on and that is down is a reason not to carry it.
    """
    cluster, card = node.config.cluster, node.card
    address = cluster.virtual_address
    assert address is not None and card is not None, "check_facts finds it"
    known = sorted({*node.control_planes, node.ip}, key=ip_address)
    others = [each for each in known if each != node.ip]
    # Without a partner it would speak to a group that other routers may be in. What is sent to the address by who
    # carries it never leaves the machine.
    partners = "\n".join(f"        {each}" for each in others or [address])
    text = f"""\
global_defs {{
    vrrp_version 3
    vrrp_check_unicast_src
    vrrp_garp_master_refresh 60
    max_auto_priority -1
}}
track_file unready {{
    file "{API_VERDICT}"
    weight 0
}}
vrrp_instance api {{
    state BACKUP
    nopreempt
    timer_expired_backup
    virtual_router_id {router_id(node)}
    priority {max(1, FIRST - APART * known.index(node.ip))}
    advert_int 1
    unicast_src_ip {node.ip}
    unicast_peer {{
{partners}
    }}
    virtual_ipaddress {{
        {address}/32 dev {card}
    }}
    track_file {{
        unready
    }}
}}
"""
    return File(CONFIG, text.encode())


def tells(node: Node, host: str) -> bool:
    """Whether a partner is told, or would be, when this control plane carries the address.

    One whose API server is not ready cannot carry it, and has time to find its partners until then.
    """
    # The watch is another process, with an HTTP client that the agent does not need to start.
    from firstboot.apiwatch import READY

    if node.config.cluster.virtual_address is None or node.card is None:
        return True
    if files.read_or_none(API_VERDICT) != READY.encode():
        return True
    return host in node.control_planes and files.is_so(configuration(node))


def router_id(node: Node) -> int | None:
    """Return the id of its VRRP: the document's, or one out of the address; None where there is no such address."""
    cluster = node.config.cluster
    if cluster.virtual_address is None:
        return None
    return cluster.virtual_router_id or addresses.router_id(ip_address(cluster.virtual_address))
