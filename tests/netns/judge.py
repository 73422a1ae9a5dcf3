# SPDX-License-Identifier: Apache-2.0
"""What the API's documentation says of a packet, word by word and slowly, and clusters made by chance to ask about.

It works on objects as the API has them, and has no line in common with what it judges.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from .lab import Packet

NODE, OTHER = "node-1", "node-2"
Object = dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    """Objects as the API lists them."""

    pods: list[Object]
    namespaces: list[Object]
    policies: list[Object] = field(default_factory=list)

    def pod_of(self, address: str) -> Object | None:
        """Return the pod with an address, None where nobody has it or it is a machine's."""
        for pod in self.pods:
            if address in [each["ip"] for each in pod["status"]["podIPs"]]:
                return pod
        return None

    def may(self, packet: Packet) -> bool:
        """Whether a packet is to pass what the node NODE enforces."""
        client, server = self.pod_of(packet.source), self.pod_of(packet.target)
        if client is not None and client is server:
            return True
        if (
            client is not None
            and client["spec"]["nodeName"] == NODE
            and not self._allowed(packet, client, "Egress")
        ):
            return False
        return not (
            server is not None
            and server["spec"]["nodeName"] == NODE
            and not self._allowed(packet, server, "Ingress")
        )

    def _allowed(self, packet: Packet, pod: Object, kind: str) -> bool:
        isolating = [each for each in self.policies if kind in types(each["spec"]) and is_selected(pod, each)]
        if not isolating:
            return True
        for policy in isolating:
            for rule in policy["spec"].get(kind.lower()) or []:
                if self._peer_matches(packet, policy, rule, kind) and self._port_matches(packet, rule):
                    return True
        return False

    def _peer_matches(self, packet: Packet, policy: Object, rule: Object, kind: str) -> bool:
        peers = rule.get("from" if kind == "Ingress" else "to")
        if not peers:
            return True
        address = packet.source if kind == "Ingress" else packet.target
        return any(self._is_peer(address, policy, peer) for peer in peers)

    def _is_peer(self, address: str, policy: Object, peer: Object) -> bool:
        if "ipBlock" in peer:
            block = peer["ipBlock"]
            inside = ip_address(address) in ip_network(block["cidr"])
            return inside and not any(
                ip_address(address) in ip_network(each) for each in block.get("except", [])
            )
        pod = self.pod_of(address)
        if pod is None:
            return False
        if "namespaceSelector" in peer:
            [namespace] = [
                each for each in self.namespaces if each["metadata"]["name"] == pod["metadata"]["namespace"]
            ]
            if not matches(peer["namespaceSelector"], namespace["metadata"]["labels"]):
                return False
        elif pod["metadata"]["namespace"] != policy["metadata"]["namespace"]:
            return False
        return "podSelector" not in peer or matches(peer["podSelector"], pod["metadata"]["labels"])

    def _port_matches(self, packet: Packet, rule: Object) -> bool:
        if not rule.get("ports"):
            return True
        for port in rule["ports"]:
            if port.get("protocol", "TCP") != packet.protocol:
                continue
            number = port.get("port")
            if number is None:
                return True
            if isinstance(number, str):
                server = self.pod_of(packet.target)
                named = [] if server is None else server["spec"]["containers"][0]["ports"]
                if any(
                    (each["name"], each["protocol"], each["containerPort"])
                    == (number, packet.protocol, packet.port)
                    for each in named
                ):
                    return True
            elif number <= packet.port <= port.get("endPort", number):
                return True
        return False


def types(spec: Object) -> list[str]:
    """Return the directions that a policy isolates in, with what the API takes where it says nothing."""
    if "policyTypes" in spec:
        return list(spec["policyTypes"])
    return ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def is_selected(pod: Object, policy: Object) -> bool:
    """Whether a policy is about a pod."""
    same = pod["metadata"]["namespace"] == policy["metadata"]["namespace"]
    return same and matches(policy["spec"]["podSelector"], pod["metadata"]["labels"])


def matches(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a selector matches labels."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions", []):
        value = labels.get(expression["key"])
        if expression["operator"] == "In" and value not in expression["values"]:
            return False
        if expression["operator"] == "NotIn" and value in expression["values"]:
            return False
        if expression["operator"] == "Exists" and value is None:
            return False
        if expression["operator"] == "DoesNotExist" and value is not None:
            return False
    return True


@dataclass(frozen=True)
class Chance:
    """Makes clusters; the same number makes the same one."""

    dice: random.Random

    def policies(self, most: int) -> list[Object]:
        """Return some policies."""
        return [self._policy(number) for number in range(self.dice.randint(1, most))]

    def _policy(self, number: int) -> Object:
        spec: Object = {"podSelector": self._selector()}
        for section, peers in (("ingress", "from"), ("egress", "to")):
            if self.dice.random() < 0.6:
                spec[section] = [self._rule(peers) for _ in range(self.dice.choice((0, 1, 1, 2)))]
        if self.dice.random() < 0.6:
            spec["policyTypes"] = self.dice.choice((["Ingress"], ["Egress"], ["Ingress", "Egress"]))
        namespace = self.dice.choice(("shop", "shop", "bank"))
        return {"metadata": {"namespace": namespace, "name": f"p{number}"}, "spec": spec}

    def _rule(self, peers: str) -> Object:
        rule: Object = {}
        if self.dice.random() < 0.8:
            rule[peers] = [self._peer() for _ in range(self.dice.choice((0, 1, 1, 2)))]
        if self.dice.random() < 0.7:
            rule["ports"] = [self._port() for _ in range(self.dice.choice((0, 1, 1, 2, 3)))]
        return rule

    def _peer(self) -> Object:
        match self.dice.randrange(4):
            case 0:
                return {"podSelector": self._selector()}
            case 1:
                return {"namespaceSelector": self._selector("team", ("red", "blue"))}
            case 2:
                return {
                    "namespaceSelector": self._selector("team", ("red", "blue")),
                    "podSelector": self._selector(),
                }
            case _:
                return {"ipBlock": self._block()}

    def _block(self) -> Object:
        narrow: tuple[str, ...]
        if self.dice.random() < 0.5:
            wide, narrow = "10.1.0.0/16", ("10.1.0.0/30", "10.1.1.0/24", "10.1.0.3/32")
            if self.dice.random() < 0.4:
                wide, narrow = "0.0.0.0/0", ("198.51.100.0/24", *narrow)
        else:
            wide, narrow = "fd00:1::/48", ("fd00:1::2/127", "fd00:1::4/128")
            if self.dice.random() < 0.4:
                wide, narrow = "::/0", ("2001:db8::/32", "fd00:3::/64", *narrow)
        block: Object = {"cidr": wide}
        if self.dice.random() < 0.6:
            block["except"] = self.dice.sample(narrow, self.dice.randint(1, 2))
        return block

    def _port(self) -> Object:
        port: Object = {}
        if self.dice.random() < 0.6:
            port["protocol"] = self.dice.choice(("TCP", "UDP"))
        match self.dice.randrange(5):
            case 0:
                pass
            case 1:
                port["port"] = "web"
            case 2:
                port |= {"port": 79, "endPort": self.dice.choice((79, 80, 90))}
            case _:
                port["port"] = self.dice.choice((80, 81))
        return port

    def _selector(self, key: str = "app", values: tuple[str, ...] = ("cart", "shop")) -> Object:
        selector: Object = {}
        if self.dice.random() < 0.5:
            selector["matchLabels"] = {key: self.dice.choice(values)}
        if self.dice.random() < 0.4:
            operator = self.dice.choice(("In", "NotIn", "Exists", "DoesNotExist"))
            expression: Object = {"key": self.dice.choice((key, "tier")), "operator": operator}
            if operator in ("In", "NotIn"):
                expression["values"] = self.dice.sample(("front", "back", *values), 2)
            selector["matchExpressions"] = [expression]
        return selector


def pod(
    name: str, namespace: str, labels: dict[str, str], *addresses: str, node: str = NODE, web: int = 80
) -> Object:
    """Return a pod that calls a port `web`."""
    ports = [{"name": "web", "protocol": "TCP", "containerPort": web}]
    return {
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"ports": ports}]},
        "status": {"phase": "Running", "podIPs": [{"ip": each} for each in addresses]},
    }


def namespace(name: str, labels: dict[str, str]) -> Object:
    """Return a namespace."""
    return {"metadata": {"name": name, "labels": labels}}
