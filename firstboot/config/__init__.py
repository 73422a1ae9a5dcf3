# SPDX-License-Identifier: Apache-2.0
"""The document as the rest of the agent knows it: frozen dataclasses with every default filled in.

node       one machine: what it is for, what runs on it, how it reaches what is outside
cluster    what all nodes have in common, who may administer, and whose CA it is
datastore  what keeps the cluster's objects, and backups of it
features   what the cluster offers beyond the bare API

`Config.from_dict` takes the value of the top-level key ``basalt`` after `firstboot.validate` has accepted it;
it does not check anything again. Defaults are written here and in schemas/user-data.schema.json (for people
and editors); a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from firstboot.config.cluster import Access, Certificates, Cluster
from firstboot.config.datastore import Backup, Datastore, DatastoreType, External
from firstboot.config.document import Document
from firstboot.config.features import (
    DNS_ADDRESS_INDEX,
    BgpPeer,
    Features,
    GatewayFeature,
    IngressFeature,
    LoadBalancerFeature,
    NetworkBackend,
)
from firstboot.config.node import (
    Node,
    Proxy,
    Registries,
    Role,
    Service,
    ServiceSettings,
    StatusSettings,
    TimeSettings,
)

# What other modules name: they take it from here.
__all__ = [
    "Backup",
    "BgpPeer",
    "Cluster",
    "Config",
    "DNS_ADDRESS_INDEX",
    "Datastore",
    "DatastoreType",
    "External",
    "GatewayFeature",
    "IngressFeature",
    "LoadBalancerFeature",
    "NetworkBackend",
    "Role",
    "Service",
]


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
