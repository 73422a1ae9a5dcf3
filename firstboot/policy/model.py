# SPDX-License-Identifier: Apache-2.0
"""Policies and pods as far as enforcement needs them, read from what the API server says.

The API server has checked what it gives out. What is not understood all the same, since it is newer than this program,
never lets more pass: a policy then selects all pods of its namespace, a peer or port matches nothing, and it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Self, TypeVar

from firstboot.policy.selectors import EVERYTHING, Selector

T = TypeVar("T")

Network = IPv4Network | IPv6Network


class Protocol(StrEnum):
    """Of a port."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class Direction(StrEnum):
    """Which connections of a pod a rule is about."""

    INGRESS = "Ingress"
    EGRESS = "Egress"


@dataclass(frozen=True)
class Pods:
    """Pods as peers; namespaces: None for those of the policy's own namespace."""

    namespaces: Selector | None
    pods: Selector

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a peer with selectors. Raises ValueError for what is not understood."""
        given = data.get("namespaceSelector")
        namespaces = None if given is None else Selector.from_dict(given)
        return cls(namespaces, Selector.from_dict(data.get("podSelector") or {}))


@dataclass(frozen=True)
class Block:
    """Addresses as peers, those of some networks taken out."""

    network: Network
    excepted: tuple[Network, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read an ipBlock. Raises ValueError for what is no network."""
        excepted = tuple(ip_network(each, strict=False) for each in data.get("except") or ())
        return cls(ip_network(data["cidr"], strict=False), excepted)


Peer = Pods | Block


@dataclass(frozen=True)
class Port:
    """Ports of the one who is asked: all of a protocol, a range, or those that pods have given a name."""

    protocol: Protocol
    first: int | None = None
    last: int | None = None
    name: str | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a port. Raises ValueError for what is not understood."""
        protocol, port = Protocol(data.get("protocol") or "TCP"), data.get("port")
        if port is None:
            return cls(protocol)
        if isinstance(port, str):
            return cls(protocol, name=port)
        return cls(protocol, port, data.get("endPort") or port)


@dataclass(frozen=True)
class Rule:
    """What is allowed: connections with any of the peers, to any of the ports; None for all there are."""

    peers: tuple[Peer, ...] | None
    ports: tuple[Port, ...] | None


@dataclass(frozen=True)
class Policy:
    """A NetworkPolicy.

    ingress, egress: what is allowed to selected pods; None where it does not isolate them in that direction
    problems:        what of it is not enforced as it is written, in a line each
    """

    namespace: str
    name: str
    pods: Selector
    ingress: tuple[Rule, ...] | None
    egress: tuple[Rule, ...] | None
    problems: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, obj: Mapping[str, Any]) -> Self:
        """Read a NetworkPolicy of the API."""
        metadata, spec = obj["metadata"], obj.get("spec") or {}
        reader = _Reader([])
        types = spec.get("policyTypes") or ("Ingress", *(("Egress",) if spec.get("egress") else ()))
        directions = [
            each for each in (reader.read("policyTypes", Direction, kind) for kind in types) if each
        ]
        pods = reader.read("podSelector", Selector.from_dict, spec.get("podSelector") or {})
        rules = {
            Direction.INGRESS: lambda: tuple(reader.rules("ingress", "from", spec)),
            Direction.EGRESS: lambda: tuple(reader.rules("egress", "to", spec)),
        }
        ingress, egress = (rules[each]() if each in directions else None for each in Direction)
        return cls(
            metadata["namespace"],
            metadata["name"],
            EVERYTHING if pods is None else pods,
            ingress,
            egress,
            tuple(reader.problems),
        )

    def rules(self, direction: Direction) -> tuple[Rule, ...] | None:
        """Return what is allowed in a direction, None where pods are not isolated by it."""
        return self.ingress if direction is Direction.INGRESS else self.egress

    @property
    def title(self) -> str:
        """How people call it."""
        return f"NetworkPolicy {self.namespace}/{self.name}"


@dataclass(frozen=True)
class _Reader:
    """Reads parts of a policy, and notes what it does not understand."""

    problems: list[str]

    def read(self, path: str, read: Callable[[Any], T], data: Any) -> T | None:
        """Return the part, None where it is not understood."""
        try:
            return read(data)
        except (ValueError, KeyError, TypeError) as error:
            self.problems.append(f"{path}: {error}")
            return None

    def rules(self, section: str, peers: str, spec: Mapping[str, Any]) -> Iterator[Rule]:
        """Yield the rules of a section; peers: its word for them."""
        for number, rule in enumerate(spec.get(section) or ()):
            path = f"{section}[{number}]"
            yield Rule(
                self._all(f"{path}.{peers}", _peer, rule.get(peers)),
                self._all(f"{path}.ports", Port.from_dict, rule.get("ports")),
            )

    def _all(self, path: str, read: Callable[[Any], T], data: Any) -> tuple[T, ...] | None:
        """Return those of a list that are understood, None for a list that is empty: it stands for all."""
        if not data:
            return None
        found = (self.read(f"{path}[{number}]", read, each) for number, each in enumerate(data))
        return tuple(each for each in found if each is not None)


def _peer(data: Mapping[str, Any]) -> Peer:
    if block := data.get("ipBlock"):
        return Block.from_dict(block)
    if not {"podSelector", "namespaceSelector"} & data.keys():
        raise ValueError(f"no kind of peer that is known: {', '.join(sorted(data)) or 'it is empty'}")
    return Pods.from_dict(data)


@dataclass(frozen=True)
class Pod:
    """A pod that may have a network of its own; see read_pod.

    ports:   (name, protocol) -> port, of those that have a name
    started: when the newest of its containers that run was started (RFC 3339, UTC); empty where none runs
    """

    namespace: str
    name: str
    node: str
    labels: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    ports: Mapping[tuple[str, Protocol], int] = field(default_factory=dict)
    started: str = ""


def read_pod(obj: Mapping[str, Any]) -> Pod | None:
    """Return what is kept of a Pod, None for one that has the node's network or has ended: its address is free."""
    metadata, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
    if spec.get("hostNetwork") or status.get("phase") in ("Succeeded", "Failed"):
        return None
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        node=spec.get("nodeName") or "",
        labels=metadata.get("labels") or {},
        addresses=tuple(each["ip"] for each in status.get("podIPs") or () if each.get("ip")),
        ports=_named_ports(spec),
        started=max(_starts(status), default=""),
    )


def _named_ports(spec: Mapping[str, Any]) -> dict[tuple[str, Protocol], int]:
    # Of those that run before the others, only such that go on beside them still listen.
    beside = (each for each in spec.get("initContainers") or () if each.get("restartPolicy") == "Always")
    found: dict[tuple[str, Protocol], int] = {}
    for container in (*spec["containers"], *beside):
        for port in container.get("ports") or ():
            protocol = port.get("protocol") or "TCP"
            if port.get("name") and protocol in Protocol.__members__:
                found.setdefault((port["name"], Protocol(protocol)), port["containerPort"])
    return found


def _starts(status: Mapping[str, Any]) -> Iterator[str]:
    for kind in ("containerStatuses", "initContainerStatuses"):
        for container in status.get(kind) or ():
            if running := (container.get("state") or {}).get("running"):
                yield running.get("startedAt") or ""


def read_namespace(obj: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the labels of a Namespace."""
    return obj["metadata"].get("labels") or {}
