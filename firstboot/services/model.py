# SPDX-License-Identifier: Apache-2.0
"""What a service of the image needs to run on this node: data only, no action."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from firstboot.cluster.followed import Followed
from firstboot.config import Config
from firstboot.files import File
from firstboot.paths import ARGUMENTS
from firstboot.probes import Probe

if TYPE_CHECKING:
    from firstboot.cluster.rotation import Rotation

LISTS = ("enable-admission-plugins",)
"""Arguments to which the document adds: without NodeRestriction each kubelet could change all nodes."""


@dataclass(frozen=True)
class Ipv6:
    """The machine's part in the IPv6 of a dual-stack cluster.

    address:   that other nodes reach it by
    interface: which has it, and the node's IPv4 address too
    mtu:       of the interface
    """

    address: str
    interface: str
    mtu: int


@dataclass(frozen=True)
class Node:
    """Everything a service's arguments are computed from.

    name:           name of the Kubernetes node
    ip:             the address other machines reach it by
    nameservers:    those of the machine's network, for names outside the cluster
    control_planes: addresses of all control planes; empty while the node is alone
    peers:          members of the datastore that a control plane joined, see Membership
    stated:         what its document says itself about the cluster's settings, by path
    followed:       the version of the cluster's settings that config is made with; None before there is one
    card:           the interface on which the cluster's virtual address belongs; None where there is none
    networks:       (interface, ``address/prefix``) of the machine, and links its interfaces: empty without the feature
                    load-balancer, which alone needs them
    rotation:       of the cluster's CA, in the stage that the node has written down; None where there has been none
    policies:       whether its cluster has network policies, as the node has noticed
    ipv6:           None where the cluster has no IPv6 networks
    """

    config: Config
    name: str
    ip: str
    nameservers: tuple[str, ...] = ()
    control_planes: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    stated: Mapping[str, Any] = field(default_factory=dict)
    followed: Followed | None = None
    card: str | None = None
    rotation: Rotation | None = None
    policies: bool = False
    networks: tuple[tuple[str, str], ...] = ()
    links: tuple[str, ...] = ()
    ipv6: Ipv6 | None = None

    @property
    def ips(self) -> tuple[str, ...]:
        """The addresses other machines reach it by: the IPv4 one, then the IPv6 one where it has to have one."""
        return (self.ip, self.ipv6.address) if self.ipv6 else (self.ip,)

    @property
    def ca_mark(self) -> Mapping[str, str]:
        """Environment of services that read the cluster's CA only when they start: they start anew in each stage."""
        return {"BASALT_CA": f"{self.rotation.id}-{self.rotation.stage}"} if self.rotation else {}


@dataclass(frozen=True)
class Service:
    """A systemd unit of the image with the inputs that make it run on this node.

    unit:         name without ``.service``
    arguments:    flag without dashes -> value, in the order given
    environment:  further variables of the unit
    files:        configuration it reads only when it starts
    needs:        gates that must be open before it is started
    """

    unit: str
    probe: Probe
    arguments: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    files: tuple[File, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def revision(self) -> str | None:
        """A digest of all that the running process was started with; a difference means a restart.

        None for a service that takes nothing from the agent.
        """
        if not (self.arguments or self.environment or self.files):
            return None
        inputs = [self._lines(), [(str(file.path), file.data.decode()) for file in self.files]]
        return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]

    @property
    def environment_file(self) -> File:
        """What the unit reads by ``EnvironmentFile=``; for root only, since it can hold a password."""
        lines = [*self._lines(), f"BASALT_REVISION={self.revision}"]
        return File(ARGUMENTS / f"{self.unit}.env", ("\n".join(lines) + "\n").encode(), 0o600)

    def _lines(self) -> list[str]:
        arguments = " ".join(f"--{name}={value}" for name, value in self.arguments.items())
        return [f"ARGS={_quote(arguments)}", *(f"{k}={_quote(v)}" for k, v in self.environment.items())]


def with_extra(service: Service, config: Config) -> Service:
    """Return the service with the document's arguments over its own, or beside them where they are a list."""
    arguments = dict(service.arguments)
    for name, value in config.extra_args(service.unit).items():
        ours = arguments.get(name, "").split(",") if name in LISTS else []
        arguments[name] = ",".join(dict.fromkeys([*filter(None, ours), *value.split(",")])) if ours else value
    return replace(service, arguments=arguments)


def _quote(value: str) -> str:
    """Quote a value for systemd's EnvironmentFile=."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`")
    return f'"{escaped}"'
