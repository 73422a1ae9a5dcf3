# SPDX-License-Identifier: Apache-2.0
"""Feature network: flannel between nodes, a bridge between the pods of one, kube-proxy for Services."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network
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

BACKENDS = {
    NetworkBackend.VXLAN: {"Type": "vxlan", "Port": 8472},
    NetworkBackend.HOST_GW: {"Type": "host-gw"},
    NetworkBackend.WIREGUARD: {"Type": "wireguard", "Mode": "auto"},
}
OVERHEAD = {NetworkBackend.VXLAN: 50, NetworkBackend.HOST_GW: 0, NetworkBackend.WIREGUARD: 80}
"""Bytes that flannel's backends add to a packet between nodes."""
NODE_PREFIX = {4: 24, 6: 64}
"""By IP version: prefix length of a node's pod network, the controller manager's default."""
FLANNEL_CONFIG = KUBERNETES / "flannel.json"
PROXY_CONFIG = KUBERNETES / "kube-proxy.json"
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
    settings = {
        "Network": node.config.cluster.pod_cidr,
        "EnableNFTables": True,
        "Backend": BACKENDS[node.config.features.network.backend],
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
            "ip-masq": "true",
            "healthz-ip": "127.0.0.1",
            "healthz-port": "8291",
        },
    )


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
        files=(File(PROXY_CONFIG, _json(settings)),),
        environment={"SERVICE_CIDR": node.config.cluster.service_cidr, "NODE_IP": node.ip},
        arguments={"config": str(PROXY_CONFIG)},
    )


def policy(node: Node) -> Service:
    """Return what enforces the cluster's network policies on this node; it costs memory, so it is there with them."""
    return Service(
        unit=POLICY,
        probe=ToldProbe(POLICY_LACKS, "has not seen the cluster's policies yet"),
        # No need of the API: without it there is to be no way for pods, instead of one that nobody has judged.
        environment={"NODE_NAME": node.name},
    )


def first_pod_network(node: Node) -> str | None:
    """Return what the controller manager gives to a cluster's first node, None where the document says how it cuts."""
    extra = node.config.extra_args("kube-controller-manager")
    if any(name.startswith(("node-cidr-mask-size", "cidr-allocator-type")) for name in extra):
        return None
    network = ip_network(node.config.cluster.pod_cidr)
    return str(next(network.subnets(new_prefix=max(NODE_PREFIX[network.version], network.prefixlen))))


@dataclass(frozen=True)
class Subnet:
    """A node's pod network, e.g. 10.1.0.0/24, and the MTU of its pods."""

    network: str
    mtu: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what flannel wrote: lines ``FLANNEL_SUBNET=10.1.0.1/24`` and ``FLANNEL_MTU=1450``."""
        values = dict(line.partition("=")[::2] for line in text.splitlines())
        return cls(str(ip_interface(values["FLANNEL_SUBNET"]).network), int(values["FLANNEL_MTU"]))


def expected_subnet(node: Node) -> Subnet | None:
    """Return what flannel will find on a cluster's first node, None where that cannot be known before."""
    network, outer = first_pod_network(node), facts.mtu(node.ip)
    if network is None or outer is None:
        return None
    return Subnet(network, outer - OVERHEAD[node.config.features.network.backend])


def cni_config(subnet: Subnet) -> File:
    """Return the runtime's network configuration."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "mtu": subnet.mtu,
        "isDefaultGateway": True,
        # A pod may reach itself through its own Service.
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": subnet.network}]],
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
