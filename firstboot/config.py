# SPDX-License-Identifier: Apache-2.0
"""The document as the rest of the agent knows it: frozen dataclasses with every default filled in.

`Config.from_dict` takes the value of the top-level key ``basalt`` after `firstboot.validate` has accepted it;
it does not check anything again. Defaults are written here and in schemas/user-data.schema.json (for people
and editors); a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_network
from typing import Any

Document = Mapping[str, Any]
"""A validated mapping out of the document, keys in kebab-case."""

DNS_ADDRESS_INDEX = 10
"""Which address of the service network cluster DNS gets when the document names none."""


class Role(StrEnum):
    """What the node is for."""

    CONTROL_PLANE = "control-plane"
    WORKER = "worker"

    @property
    def has_control_plane(self) -> bool:
        """Whether datastore, API server, controller manager and scheduler run here."""
        return self is Role.CONTROL_PLANE


class DatastoreType(StrEnum):
    """What keeps the cluster's objects."""

    DQLITE = "dqlite"
    ETCD = "etcd"
    EXTERNAL = "external"

    @property
    def is_ours(self) -> bool:
        """Whether it runs on the cluster's own control planes, with an authority of the cluster's."""
        return self is not DatastoreType.EXTERNAL


class NetworkBackend(StrEnum):
    """How pods on different nodes reach each other."""

    VXLAN = "vxlan"
    HOST_GW = "host-gw"
    WIREGUARD = "wireguard"


class Service(StrEnum):
    """Services of the image that take extra arguments, by the name of their systemd unit."""

    KUBE_APISERVER = "kube-apiserver"
    KUBE_CONTROLLER_MANAGER = "kube-controller-manager"
    KUBE_SCHEDULER = "kube-scheduler"
    KUBELET = "kubelet"
    KUBE_PROXY = "kube-proxy"
    CONTAINERD = "containerd"
    ETCD = "etcd"
    K8S_DQLITE = "k8s-dqlite"
    FLANNELD = "flanneld"
    COREDNS = "coredns"
    METRICS_SERVER = "metrics-server"


@dataclass(frozen=True)
class Node:
    """The machine as a member of the cluster.

    name:   None means the host name
    ip:     None means the address of the default route
    ipv6:   None means one of the interface that has ``ip``; asked for only in a cluster with IPv6 networks
    taints: ``key=value:Effect`` or ``key:Effect``
    """

    name: str | None = None
    ip: str | None = None
    ipv6: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Document) -> Node:
        """Read ``node``."""
        return cls(
            name=data.get("name"),
            ip=data.get("ip"),
            ipv6=data.get("ipv6"),
            labels=dict(data.get("labels", {})),
            taints=tuple(data.get("taints", ())),
        )


@dataclass(frozen=True)
class Cluster:
    """What all nodes of a cluster have in common.

    api_address:       host name or address under which clients reach the API, beside the nodes' own; None means
                       none
    virtual_address:   the one that the control planes carry themselves, one at a time; None means none
    virtual_router_id: of its VRRP, 1 to 255; None means one that comes out of the address
    bootstrap:         whether this machine starts the cluster that others join with the token
    token:             what lets a machine join; never show it
    endpoints:         ``host`` or ``host:port`` of control planes to join at, port 6401 by default
    pod_cidr, service_cidr: an IPv4 network, or an IPv4 and an IPv6 one with a comma between; see the properties
    """

    name: str = "basalt"
    api_address: str | None = None
    virtual_address: str | None = None
    virtual_router_id: int | None = None
    bootstrap: bool = False
    token: str | None = field(default=None, repr=False)
    endpoints: tuple[str, ...] = ()
    pod_cidr: str = "10.1.0.0/16"
    service_cidr: str = "10.152.183.0/24"
    domain: str = "cluster.local"

    @classmethod
    def from_dict(cls, data: Document) -> Cluster:
        """Read ``cluster``."""
        return cls(
            name=data.get("name", cls.name),
            api_address=data.get("api-address"),
            virtual_address=data.get("virtual-address"),
            virtual_router_id=data.get("virtual-router-id"),
            bootstrap=data.get("bootstrap", cls.bootstrap),
            token=data.get("token"),
            endpoints=tuple(data.get("endpoints", ())),
            pod_cidr=data.get("pod-cidr", cls.pod_cidr),
            service_cidr=data.get("service-cidr", cls.service_cidr),
            domain=data.get("domain", cls.domain),
        )

    @property
    def api_hosts(self) -> tuple[str, ...]:
        """Under which names and addresses clients reach the API, beside the nodes' own; the best one first."""
        return tuple(host for host in (self.api_address, self.virtual_address) if host is not None)

    @property
    def join_endpoints(self) -> tuple[str, ...]:
        """Where to ask for being let in: the endpoints, else the API's address."""
        return self.endpoints or self.api_hosts[:1]

    @property
    def pod_networks(self) -> tuple[str, ...]:
        """The networks of the pods: the IPv4 one, in a dual-stack cluster then the IPv6 one."""
        return tuple(self.pod_cidr.split(","))

    @property
    def service_networks(self) -> tuple[str, ...]:
        """The networks of the Services, by IP version as the pods'; unasked, a Service gets an address of the first."""
        return tuple(self.service_cidr.split(","))

    @property
    def is_dual_stack(self) -> bool:
        """Whether pods, Services and nodes have IPv6 addresses too."""
        return len(self.pod_networks) > 1

    @property
    def api_service_ip(self) -> str:
        """Address of the Service ``kubernetes``: the first of the first service network."""
        return str(ip_network(self.service_networks[0])[1])


@dataclass(frozen=True)
class Backup:
    """Backups that control planes take by themselves.

    recipient: public key, PEM; None means that none are taken
    interval:  hours or days, e.g. ``24h``
    keep:      how many stay on a control plane
    """

    recipient: str | None = None
    interval: str = "24h"
    keep: int = 7

    @classmethod
    def from_dict(cls, data: Document) -> Backup:
        """Read ``datastore.backup``."""
        return cls(
            recipient=data.get("recipient"),
            interval=data.get("interval", cls.interval),
            keep=data.get("keep", cls.keep),
        )

    @property
    def seconds(self) -> int:
        """The interval."""
        return int(self.interval[:-1]) * {"h": 3600, "d": 86400}[self.interval[-1]]


@dataclass(frozen=True)
class External:
    """An etcd that somebody else runs, and this cluster's way in.

    endpoints:              ``https://host:port``; none on a node that has no such datastore
    ca, client_certificate: PEM; whom etcd's certificates have to be signed by, and who the API server is
    client_key:             PEM; never show it
    prefix:                 of all the cluster's keys in it
    """

    endpoints: tuple[str, ...] = ()
    ca: str | None = None
    client_certificate: str | None = None
    client_key: str | None = field(default=None, repr=False)
    prefix: str = "/registry"

    @classmethod
    def from_dict(cls, data: Document) -> External:
        """Read ``datastore.external``."""
        return cls(
            endpoints=tuple(data.get("endpoints", ())),
            ca=data.get("ca"),
            client_certificate=data.get("client-certificate"),
            client_key=data.get("client-key"),
            prefix=data.get("prefix", cls.prefix),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as it stands in a document, for another control plane; it holds the key."""
        return {
            "endpoints": list(self.endpoints),
            "ca": self.ca,
            "client-certificate": self.client_certificate,
            "client-key": self.client_key,
            "prefix": self.prefix,
        }


@dataclass(frozen=True)
class Datastore:
    """Where the API server keeps its objects."""

    type: DatastoreType = DatastoreType.DQLITE
    backup: Backup = field(default_factory=Backup)
    external: External = field(default_factory=External)

    @classmethod
    def from_dict(cls, data: Document) -> Datastore:
        """Read ``datastore``."""
        return cls(
            type=DatastoreType(data.get("type", cls.type)),
            backup=Backup.from_dict(data.get("backup", {})),
            external=External.from_dict(data.get("external", {})),
        )


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
class MetricsServerFeature:
    """Use of processors and memory by pods and nodes."""

    enabled: bool = False

    @classmethod
    def from_dict(cls, data: Document) -> MetricsServerFeature:
        """Read ``features.metrics-server``."""
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


@dataclass(frozen=True)
class Access:
    """Who may administer.

    client_ca: PEM, one or more certificates; None means only root on the node
    """

    client_ca: str | None = None

    @classmethod
    def from_dict(cls, data: Document) -> Access:
        """Read ``access``."""
        return cls(client_ca=data.get("client-ca"))


@dataclass(frozen=True)
class GivenAuthority:
    """The cluster's CA, where the document brings it.

    certificate: PEM, the one that signs first, then those above it up to the root; None means that the node makes it
    key:         PEM; never show it
    """

    certificate: str | None = None
    key: str | None = field(default=None, repr=False)

    @classmethod
    def from_dict(cls, data: Document) -> GivenAuthority:
        """Read ``certificates.ca``."""
        return cls(certificate=data.get("certificate"), key=data.get("key"))


@dataclass(frozen=True)
class Certificates:
    """Keys and certificates that the node does not make itself."""

    ca: GivenAuthority = field(default_factory=GivenAuthority)

    @classmethod
    def from_dict(cls, data: Document) -> Certificates:
        """Read ``certificates``."""
        return cls(ca=GivenAuthority.from_dict(data.get("ca", {})))


@dataclass(frozen=True)
class StatusSettings:
    """The read-only status over HTTP.

    listen: ``host:port`` or ``[v6]:port``
    """

    listen: str = "0.0.0.0:9180"

    @classmethod
    def from_dict(cls, data: Document) -> StatusSettings:
        """Read ``status``."""
        return cls(listen=data.get("listen", cls.listen))

    @property
    def host(self) -> str:
        """The address to listen on, without brackets."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The TCP port to listen on."""
        return int(self.listen.rpartition(":")[2])


@dataclass(frozen=True)
class ServiceSettings:
    """What the document adds to a service.

    extra_args: argument name without leading dashes -> value without white space
    """

    extra_args: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Document) -> ServiceSettings:
        """Read ``services.<name>``."""
        return cls(extra_args=dict(data.get("extra-args", {})))


@dataclass(frozen=True)
class TimeSettings:
    """Clock.

    servers: NTP servers; empty means those of the image and of DHCP
    """

    servers: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Document) -> TimeSettings:
        """Read ``time``."""
        return cls(servers=tuple(data.get("servers", ())))


@dataclass(frozen=True)
class Registries:
    """Where images come from.

    mirrors: registry host (with port where it has one, ``_default`` for all others) -> URLs, tried in order
    """

    mirrors: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Document) -> Registries:
        """Read ``registries``."""
        return cls(mirrors={host: tuple(urls) for host, urls in data.get("mirrors", {}).items()})


@dataclass(frozen=True)
class Proxy:
    """How the node reaches the outside. The URLs may hold a password: never show them."""

    http: str | None = field(default=None, repr=False)
    https: str | None = field(default=None, repr=False)
    no_proxy: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Document) -> Proxy:
        """Read ``proxy``."""
        return cls(
            http=data.get("http"),
            https=data.get("https"),
            no_proxy=tuple(data.get("no-proxy", ())),
        )


@dataclass(frozen=True)
class Config:
    """The whole document."""

    role: Role
    version: int = 1
    node: Node = field(default_factory=Node)
    cluster: Cluster = field(default_factory=Cluster)
    datastore: Datastore = field(default_factory=Datastore)
    features: Features = field(default_factory=Features)
    access: Access = field(default_factory=Access)
    certificates: Certificates = field(default_factory=Certificates)
    status: StatusSettings = field(default_factory=StatusSettings)
    services: dict[str, ServiceSettings] = field(default_factory=dict)
    time: TimeSettings = field(default_factory=TimeSettings)
    registries: Registries = field(default_factory=Registries)
    proxy: Proxy = field(default_factory=Proxy)

    @classmethod
    def from_dict(cls, data: Document) -> Config:
        """Make a Config from the value of the key ``basalt``; ``role`` is its only required key."""
        cluster = Cluster.from_dict(data.get("cluster", {}))
        return cls(
            role=Role(data["role"]),
            version=data.get("version", cls.version),
            node=Node.from_dict(data.get("node", {})),
            cluster=cluster,
            datastore=Datastore.from_dict(data.get("datastore", {})),
            features=Features.from_dict(data.get("features", {}), cluster),
            access=Access.from_dict(data.get("access", {})),
            certificates=Certificates.from_dict(data.get("certificates", {})),
            status=StatusSettings.from_dict(data.get("status", {})),
            services={n: ServiceSettings.from_dict(s) for n, s in data.get("services", {}).items()},
            time=TimeSettings.from_dict(data.get("time", {})),
            registries=Registries.from_dict(data.get("registries", {})),
            proxy=Proxy.from_dict(data.get("proxy", {})),
        )

    @property
    def joins(self) -> bool:
        """Whether the node becomes part of a cluster that another machine has started."""
        return self.role is Role.WORKER or (self.cluster.token is not None and not self.cluster.bootstrap)

    def extra_args(self, service: Service | str) -> dict[str, str]:
        """Return the extra arguments of a service: empty when the document says nothing about it."""
        settings = self.services.get(str(service))
        return dict(settings.extra_args) if settings else {}
