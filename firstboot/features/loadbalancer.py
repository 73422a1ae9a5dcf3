# SPDX-License-Identifier: Apache-2.0
"""Feature load-balancer: addresses for Services of type LoadBalancer.

On every node a service follows the cluster and writes configurations for keepalived (layer 2) and BIRD (BGP); that of
one control plane also gives addresses to Services. See firstboot.loadbalancer.
"""

from __future__ import annotations

from firstboot.features.model import Feature, allow, bind_user, bind_user_in, cluster_role, role
from firstboot.files import File
from firstboot.kube import Object
from firstboot.loadbalancer import places
from firstboot.loadbalancer.keepalived import Cards
from firstboot.loadbalancer.places import ALLOCATOR, IDENTITY, LEASE_NAMESPACE
from firstboot.loadbalancer.settings import Settings
from firstboot.probes import FileProbe, SocketProbe, ToldProbe
from firstboot.services import virtualaddress
from firstboot.services.model import Node, Service

NAME = "load-balancer"
L2, BGP = "load-balancer-l2", "load-balancer-bgp"


def feature(node: Node) -> Feature:
    """Return the feature for this node."""
    settings = node.config.features.load_balancer
    if not settings.enabled:
        return Feature(NAME, leftovers=OBJECTS, balanced=True)
    services = [balancer(node)]
    # They read what that service has written when it has started.
    needs = (f"unit:{NAME}",)
    if settings.l2_mode:
        services.append(Service(L2, FileProbe(places.L2_PID, "has not started yet"), needs=needs))
    if settings.bgp_mode:
        services.append(Service(BGP, SocketProbe(places.BGP_CONTROL), needs=needs))
    return Feature(NAME, tuple(services), OBJECTS)


def balancer(node: Node) -> Service:
    """Return the service that follows the cluster."""
    return Service(
        unit=NAME,
        probe=ToldProbe(places.LACKS, "has not asked the API server yet", places.ACCOUNT),
        needs=("apiserver", "node"),
        files=(File(places.SETTINGS, told(node).to_json().encode()),),
    )


def told(node: Node) -> Settings:
    """Return what the service has to know."""
    config, router = node.config, virtualaddress.router_id(node)
    virtual = config.cluster.virtual_address
    chosen = tuple(name for name in config.features.load_balancer.l2_interfaces if name in node.links)
    return Settings(
        node=node.name,
        cards=Cards(node.ip, node.networks, chosen, node.ipv6.address if node.ipv6 else None),
        feature=config.features.load_balancer,
        allocates=config.role.has_control_plane,
        proxied=config.features.network.enabled,
        virtual=(virtual, router) if virtual is not None and router is not None else None,
    )


OBJECTS: tuple[Object, ...] = (
    cluster_role(
        "basalt:load-balancer",
        [
            allow("core", "services nodes", "list watch"),
            allow("discovery.k8s.io", "endpointslices", "list watch"),
        ],
    ),
    bind_user("basalt:load-balancer", IDENTITY),
    cluster_role(
        "basalt:load-balancer-allocator",
        [
            allow("core", "services", "list watch"),
            allow("core", "services/status", "patch"),
            allow("core", "events", "get create update"),
        ],
    ),
    bind_user("basalt:load-balancer-allocator", ALLOCATOR),
    role(
        "basalt:load-balancer-allocator",
        LEASE_NAMESPACE,
        [{**allow("coordination.k8s.io", "leases", "get update"), "resourceNames": [NAME]}],
    ),
    bind_user_in(LEASE_NAMESPACE, "basalt:load-balancer-allocator", ALLOCATOR),
    # Who holds it is written by the services; that it is there spares them the right to make any.
    {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": NAME, "namespace": LEASE_NAMESPACE, "labels": {"k8s-app": NAME}},
    },
)
