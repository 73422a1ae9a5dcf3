# SPDX-License-Identifier: Apache-2.0
"""One machine: what it is for, what it is called, what runs on it, and how it reaches what is outside."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from firstboot.config.document import Document


class Role(StrEnum):
    """What the node is for."""

    CONTROL_PLANE = "control-plane"
    WORKER = "worker"

    @property
    def has_control_plane(self) -> bool:
        """Whether datastore, API server, controller manager and scheduler run here."""
        return self is Role.CONTROL_PLANE


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
