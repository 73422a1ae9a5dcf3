# SPDX-License-Identifier: Apache-2.0
"""The cluster: what all of its nodes agree on, who may administer it, and whose its CA is."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_network

from firstboot.config.document import Document


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
