# SPDX-License-Identifier: Apache-2.0
"""Feature network: flannel between nodes, a bridge between the pods of one, kube-proxy for Services."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from typing import Self

from firstboot import facts
from firstboot.config import NetworkBackend
from firstboot.features.model import Feature, allow, bind_group, bind_user, cluster_role
from firstboot.files import File
from firstboot.kube import Object
from firstboot.paths import CNI_CONFIG, FLANNEL_SUBNET, KUBERNETES, POLICY_LACKS
from firstboot.pki.catalogue import NODES
from firstboot.probes import All, FileProbe, HttpProbe, ToldProbe
from firstboot.services.model import Node, Service

BACKENDS: Mapping[NetworkBackend, Mapping[str, object]] = {
    NetworkBackend.VXLAN: {"Type": "vxlan", "Port": 8472},
    NetworkBackend.HOST_GW: {"Type": "host-gw"},
    NetworkBackend.WIREGUARD: {"Type": "wireguard"},
}
OVERHEAD = {NetworkBackend.VXLAN: 50, NetworkBackend.HOST_GW: 0, NetworkBackend.WIREGUARD: 80}
"""Bytes that flannel's backends add to a packet between nodes that speak by IPv4; wireguard's are for both versions."""
LONGER_HEADER = 20
"""Bytes by which a header of IPv6 is longer. flannel sends IPv6 between nodes by IPv6, but counts for vxlan what it
takes by IPv4."""
NODE_PREFIX = {4: 24, 6: 64}
"""By IP version: prefix length of a node's pod network, the controller manager's default."""
FLANNEL_CONFIG = KUBERNETES / "flannel.json"
PROXY_CONFIG = KUBERNETES / "kube-proxy.json"
PROXY_ROUTES = KUBERNETES / "kube-proxy.routes"
"""What kube-proxy's unit has `ip` do before it starts."""
ROUTES_PROTOCOL = 98
"""By which the unit knows its routes when it stops: a number that nobody else uses."""
USER = "flanneld"
POLICY = "network-policy"
"""Unit, and user of the API, of what enforces network policies."""


def feature(node: Node) -> Feature:
    """Return the feature for this node."""
    if not node.config.features.network.enabled:
        return Feature("network")
    policies = (policy(node),) if node.policies else ()
    return Feature("network", (flannel(node), proxy(node), *policies), OBJECTS)


def flannel(node: Node) -> Service:
    """Return flanneld; it learns the node's pod network from the Node object and writes it to a file."""
    networks, ipv6 = node.config.cluster.pod_networks, node.ipv6
    settings = {
        "Network": networks[0],
        **({"EnableIPv6": True, "IPv6Network": networks[1]} if ipv6 else {}),
        "EnableNFTables": True,
        "Backend": backend(node),
    }
    health = HttpProbe("http://127.0.0.1:8291/healthz")
    waiting = FileProbe(FLANNEL_SUBNET, "no pod network assigned to the node yet")
    return Service(
        unit="flanneld",
        probe=All((health, waiting, FileProbe(CNI_CONFIG, "the runtime's network is not configured yet"))),
        needs=("apiserver", "node"),
        files=(File(FLANNEL_CONFIG, _json(settings)),),
        # Its client, unlike those of Kubernetes, does not read the CA again.
        environment={"NODE_NAME": node.name, **node.ca_mark},
        arguments={
            "kube-subnet-mgr": "true",
            "kubeconfig-file": f"{KUBERNETES}/flanneld.kubeconfig",
            "net-config-path": str(FLANNEL_CONFIG),
            "subnet-file": str(FLANNEL_SUBNET),
            "iface": node.ip,
            **({"public-ipv6": ipv6.address} if ipv6 else {}),
            "ip-masq": "true",
            "healthz-ip": "127.0.0.1",
            "healthz-port": "8291",
        },
    )


def backend(node: Node) -> dict[str, object]:
    """Return flannel's settings for the way in which nodes' pods reach each other."""
    chosen = node.config.features.network.backend
    settings = {**BACKENDS[chosen]}
    if chosen is NetworkBackend.WIREGUARD:
        # One interface for both versions. With a single version flannel fails in that mode as soon as it has learned
        # of one other node, says so only when it ends, and learns of no further one (0.28.10).
        settings["Mode"] = "auto" if node.ipv6 else "separate"
    if node.ipv6:
        settings["MTU"] = node.ipv6.mtu - _longer(node)
    return settings


def proxy(node: Node) -> Service:
    """Return kube-proxy in nftables mode."""
    settings = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": node.config.cluster.pod_cidr,
        "detectLocalMode": "ClusterCIDR",
        "clientConnection": {"kubeconfig": f"{KUBERNETES}/kube-proxy.kubeconfig"},
        "hostnameOverride": node.name,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        # The image sizes the table once; the proxy has no right to.
        "conntrack": {"maxPerCore": 0, "min": 0},
    }
    return Service(
        unit="kube-proxy",
        probe=HttpProbe("http://127.0.0.1:10256/livez"),
        needs=("apiserver",),
        files=(File(PROXY_CONFIG, _json(settings)), File(PROXY_ROUTES, service_routes(node).encode())),
        arguments={"config": str(PROXY_CONFIG)},
    )


def service_routes(node: Node) -> str:
    """Return lines for `ip -batch`: ways to the service networks, for packets of the node itself.

    Nothing takes them: where a packet goes is looked up, then kube-proxy's rules give it another address, and it is
    looked up again.
    """
    networks = node.config.cluster.service_networks
    ways = [f"route replace {networks[0]} dev lo src {node.ip} proto {ROUTES_PROTOCOL}"]
    if node.ipv6:
        # Of IPv6, the kernel makes one by the loopback into a route that refuses.
        own = f"dev {node.ipv6.interface} src {node.ipv6.address}"
        ways.append(f"route replace {networks[1]} {own} proto {ROUTES_PROTOCOL}")
    return "\n".join([*ways, ""])


def policy(node: Node) -> Service:
    """Return what enforces the cluster's network policies on this node; it costs memory, so it is there with them."""
    return Service(
        unit=POLICY,
        probe=ToldProbe(POLICY_LACKS, "has not seen the cluster's policies yet"),
        # No need of the API: without it there is to be no way for pods, instead of one that nobody has judged.
        environment={"NODE_NAME": node.name},
    )


def first_pod_networks(node: Node) -> tuple[str, ...]:
    """Return what the controller manager gives to a cluster's first node; none where the document says how it cuts."""
    extra = node.config.extra_args("kube-controller-manager")
    if any(name.startswith(("node-cidr-mask-size", "cidr-allocator-type")) for name in extra):
        return ()
    return tuple(_first_of(ip_network(each)) for each in node.config.cluster.pod_networks)


def _first_of(network: IPv4Network | IPv6Network) -> str:
    length = max(NODE_PREFIX[network.version], network.prefixlen)
    return f"{network.network_address}/{length}"


@dataclass(frozen=True)
class Subnet:
    """A node's pod networks, e.g. 10.1.0.0/24 and fd01::/64, and the MTU of its pods."""

    networks: tuple[str, ...]
    mtu: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what flannel wrote: lines ``FLANNEL_SUBNET=10.1.0.1/24`` and ``FLANNEL_MTU=1450``.

        In a dual-stack cluster there is also a line ``FLANNEL_IPV6_SUBNET=fd01::1/64``.
        """
        values = dict(line.partition("=")[::2] for line in text.splitlines())
        own = [values[key] for key in ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET") if key in values]
        return cls(tuple(str(ip_interface(each).network) for each in own), int(values["FLANNEL_MTU"]))


def expected_subnet(node: Node) -> Subnet | None:
    """Return what flannel will find on a cluster's first node, None where that cannot be known before."""
    networks, outer = first_pod_networks(node), facts.mtu(node.ip)
    if not networks or outer is None:
        return None
    return Subnet(networks, outer - OVERHEAD[node.config.features.network.backend] - _longer(node))


def _longer(node: Node) -> int:
    """Return by how many bytes packets of pods have to be shorter than flannel has them by itself."""
    vxlan = node.config.features.network.backend is NetworkBackend.VXLAN
    return LONGER_HEADER if vxlan and node.ipv6 else 0


def cni_config(subnet: Subnet) -> File:
    """Return the runtime's network configuration."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "mtu": subnet.mtu,
        # An address and a default route of each network's version.
        "isDefaultGateway": True,
        # A pod may reach itself through its own Service.
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": network}] for network in subnet.networks],
            # On tmpfs: addresses given out before a power cut are free again after it.
            "dataDir": "/run/cni/networks",
        },
    }
    portmap = {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": True}}
    bandwidth = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
    config = {"cniVersion": "1.0.0", "name": "basalt", "plugins": [bridge, portmap, bandwidth]}
    return File(CNI_CONFIG, _json(config))


def _json(data: object) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()


OBJECTS: tuple[Object, ...] = (
    cluster_role(
        "basalt:flannel",
        [
            allow("core", "pods", "get"),
            allow("core", "nodes", "get list watch"),
            allow("core", "nodes/status", "patch"),
        ],
    ),
    bind_user("basalt:flannel", USER),
    cluster_role(
        "basalt:network-policy",
        [
            allow("core", "namespaces pods", "get list watch"),
            allow("networking.k8s.io", "networkpolicies", "get list watch"),
        ],
    ),
    bind_user("basalt:network-policy", POLICY),
    # Agents of workers look whether there are any.
    cluster_role("basalt:network-policy-noticed", [allow("networking.k8s.io", "networkpolicies", "list")]),
    bind_group("basalt:network-policy-noticed", NODES),
)
