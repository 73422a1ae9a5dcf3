# SPDX-License-Identifier: Apache-2.0
"""What the cluster offers beyond the bare API: the settings of each feature."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_network
from typing import Any

from firstboot.config.cluster import Cluster
from firstboot.config.document import Document

DNS_ADDRESS_INDEX = 10
"""Which address of the service network cluster DNS gets when the document names none."""


class NetworkBackend(StrEnum):
    """How pods on different nodes reach each other."""

    VXLAN = "vxlan"
    HOST_GW = "host-gw"
    WIREGUARD = "wireguard"


@dataclass(frozen=True)
class NetworkFeature:
    """Pod network."""

    enabled: bool = True
    backend: NetworkBackend = NetworkBackend.VXLAN

    @classmethod
    def from_dict(cls, data: Document) -> NetworkFeature:
        """Read ``features.network``."""
        return cls(
            enabled=data.get("enabled", cls.enabled),
            backend=NetworkBackend(data.get("backend", cls.backend)),
        )


@dataclass(frozen=True)
class DnsFeature:
    """Cluster DNS.

    service_ip:           never None in a Config made by `Config.from_dict`
    upstream_nameservers: empty means those of the node
    """

    enabled: bool = True
    service_ip: str | None = None
    upstream_nameservers: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Document, service_network: str) -> DnsFeature:
        """Read ``features.dns``; the default of its address comes out of the first service network."""
        return cls(
            enabled=data.get("enabled", cls.enabled),
            service_ip=data.get("service-ip", str(ip_network(service_network)[DNS_ADDRESS_INDEX])),
            upstream_nameservers=tuple(data.get("upstream-nameservers", ())),
        )


@dataclass(frozen=True)
class IngressFeature:
    """Ingresses.

    default_tls_secret: in kube-system, for names that no other certificate is for; None means one that nobody trusts
    trusted_proxies:    who may tell by the PROXY protocol who asks; empty where it is not enabled
    """

    enabled: bool = False
    default_tls_secret: str | None = None
    enable_proxy_protocol: bool = False
    trusted_proxies: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Document) -> IngressFeature:
        """Read ``features.ingress``."""
        return cls(
            enabled=data.get("enabled", cls.enabled),
            default_tls_secret=data.get("default-tls-secret"),
            enable_proxy_protocol=data.get("enable-proxy-protocol", cls.enable_proxy_protocol),
            trusted_proxies=tuple(data.get("trusted-proxies", ())),
        )


@dataclass(frozen=True)
class GatewayFeature:
    """The Gateway API."""

    enabled: bool = False

    @classmethod
    def from_dict(cls, data: Document) -> GatewayFeature:
        """Read ``features.gateway``."""
        return cls(enabled=data.get("enabled", cls.enabled))


class ReclaimPolicy(StrEnum):
    """What becomes of a volume's data when its claim is deleted."""

    DELETE = "Delete"
    RETAIN = "Retain"


@dataclass(frozen=True)
class LocalStorageFeature:
    """Volumes on the disks of nodes.

    local_path: folder on each node in which they are
    default:    whether claims get them that name no class
    """

    enabled: bool = False
    local_path: str = "/var/lib/basalt/local-storage"
    reclaim_policy: ReclaimPolicy = ReclaimPolicy.DELETE
    default: bool = True

    @classmethod
    def from_dict(cls, data: Document) -> LocalStorageFeature:
        """Read ``features.local-storage``."""
        return cls(
            enabled=data.get("enabled", cls.enabled),
            local_path=data.get("local-path", cls.local_path),
            reclaim_policy=ReclaimPolicy(data.get("reclaim-policy", cls.reclaim_policy)),
            default=data.get("default", cls.default),
        )


@dataclass(frozen=True)
class BgpPeer:
    """A router that is told of addresses.

    asn: its autonomous system
    """

    address: str
    asn: int
    port: int = 179

    @classmethod
    def from_dict(cls, data: Document) -> BgpPeer:
        """Read an item of ``features.load-balancer.bgp-peers``."""
        return cls(data["address"], data["asn"], data.get("port", cls.port))

    def to_dict(self) -> dict[str, Any]:
        """Return it as it stands in a document."""
        return {"address": self.address, "asn": self.asn, "port": self.port}


@dataclass(frozen=True)
class LoadBalancerFeature:
    """Addresses for Services of type LoadBalancer.

    cidrs:         networks and ranges (``192.0.2.10-192.0.2.20``) that they come from, in this order
    l2_mode:       whether one node at a time answers for each on the nodes' own network
    l2_interfaces: where; empty means the interface to whose network an address belongs
    bgp_mode:      whether routers are told which nodes take packets for it
    bgp_local_asn: autonomous system of the nodes
    """

    enabled: bool = False
    cidrs: tuple[str, ...] = ()
    l2_mode: bool = False
    l2_interfaces: tuple[str, ...] = ()
    bgp_mode: bool = False
    bgp_local_asn: int | None = None
    bgp_peers: tuple[BgpPeer, ...] = ()

    @classmethod
    def from_dict(cls, data: Document) -> LoadBalancerFeature:
        """Read ``features.load-balancer``."""
        return cls(
            enabled=data.get("enabled", cls.enabled),
            cidrs=tuple(data.get("cidrs", ())),
            l2_mode=data.get("l2-mode", cls.l2_mode),
            l2_interfaces=tuple(data.get("l2-interfaces", ())),
            bgp_mode=data.get("bgp-mode", cls.bgp_mode),
            bgp_local_asn=data.get("bgp-local-asn"),
            bgp_peers=tuple(BgpPeer.from_dict(each) for each in data.get("bgp-peers", ())),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as it stands in a document, every default written out."""
        local = {} if self.bgp_local_asn is None else {"bgp-local-asn": self.bgp_local_asn}
        return {
            "enabled": self.enabled,
            "cidrs": list(self.cidrs),
            "l2-mode": self.l2_mode,
            "l2-interfaces": list(self.l2_interfaces),
            "bgp-mode": self.bgp_mode,
            **local,
            "bgp-peers": [peer.to_dict() for peer in self.bgp_peers],
        }


@dataclass(frozen=True)
class MetricsServerFeature:
    """Use of processors and memory by pods and nodes."""

    enabled: bool = False

    @classmethod
    def from_dict(cls, data: Document) -> MetricsServerFeature:
        """Read ``features.metrics-server``."""
        return cls(enabled=data.get("enabled", cls.enabled))


@dataclass(frozen=True)
class Features:
    """What the cluster offers beyond the bare API."""

    network: NetworkFeature = field(default_factory=NetworkFeature)
    dns: DnsFeature = field(default_factory=DnsFeature)
    ingress: IngressFeature = field(default_factory=IngressFeature)
    gateway: GatewayFeature = field(default_factory=GatewayFeature)
    local_storage: LocalStorageFeature = field(default_factory=LocalStorageFeature)
    load_balancer: LoadBalancerFeature = field(default_factory=LoadBalancerFeature)
    metrics_server: MetricsServerFeature = field(default_factory=MetricsServerFeature)

    @classmethod
    def from_dict(cls, data: Document, cluster: Cluster) -> Features:
        """Read ``features``."""
        return cls(
            network=NetworkFeature.from_dict(data.get("network", {})),
            dns=DnsFeature.from_dict(data.get("dns", {}), cluster.service_networks[0]),
            ingress=IngressFeature.from_dict(data.get("ingress", {})),
            gateway=GatewayFeature.from_dict(data.get("gateway", {})),
            local_storage=LocalStorageFeature.from_dict(data.get("local-storage", {})),
            load_balancer=LoadBalancerFeature.from_dict(data.get("load-balancer", {})),
            metrics_server=MetricsServerFeature.from_dict(data.get("metrics-server", {})),
        )
