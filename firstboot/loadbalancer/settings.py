# SPDX-License-Identifier: Apache-2.0
"""What the agent tells the service: the cluster's settings, and what this node is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from firstboot.config import LoadBalancerFeature
from firstboot.loadbalancer import addresses
from firstboot.loadbalancer.addresses import Address, Pool
from firstboot.loadbalancer.keepalived import Cards


@dataclass(frozen=True)
class Settings:
    """All that the service does not learn from the API server.

    allocates: whether this node is one of those that give addresses
    proxied:   whether kube-proxy is what takes packets for Services here
    virtual:   the API's virtual address, and the id of its VRRP
    """

    node: str
    cards: Cards
    feature: LoadBalancerFeature
    allocates: bool = False
    proxied: bool = True
    virtual: tuple[str, int] | None = None

    def to_json(self) -> str:
        """Return it as the text of a file."""
        data = {**asdict(self), "feature": self.feature.to_dict()}
        return json.dumps(data, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        data: dict[str, Any] = json.loads(text)
        cards, virtual = data["cards"], data["virtual"]
        own = tuple((name, address) for name, address in cards["own"])
        return cls(
            node=data["node"],
            cards=Cards(cards["ip"], own, tuple(cards["chosen"]), cards["ipv6"]),
            feature=LoadBalancerFeature.from_dict(data["feature"]),
            allocates=data["allocates"],
            proxied=data["proxied"],
            virtual=None if virtual is None else (virtual[0], virtual[1]),
        )

    def pool(self, nodes: Mapping[str, Iterable[str]]) -> Pool:
        """Return what there is to give; nodes: the addresses of each."""
        spans = addresses.spans(self.feature.cidrs)
        others = {address: f"the node {name}" for name, own in nodes.items() for address in own}
        others |= {
            peer.address: "a router of features.load-balancer.bgp-peers" for peer in self.feature.bgp_peers
        }
        if self.virtual:
            others[self.virtual[0]] = "the API (cluster.virtual-address)"
        taken: dict[Address, str] = {}
        for text, who in others.items():
            address = addresses.parse(text)
            if address is not None and any(address in span for span in spans):
                taken[address] = who
        foreign = self.virtual[1] if self.virtual else None
        return Pool(spans, taken, in_l2=self.feature.l2_mode, foreign=foreign)
