# SPDX-License-Identifier: Apache-2.0
"""From policies, pods and namespaces to the ruleset of one node; nothing happens here.

Each packet of a connection, in whichever direction it goes, is judged by who has opened the connection and who is
asked, after kube-proxy has put a pod in the place of a Service. So nothing has to be remembered of connections: one
that is not allowed any more ends with the next packet. A pod's address leads by a map to the chain of all policies
that select it, which is shared by all pods with the same ones; what no rule there accepts is dropped.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import collapse_addresses
from typing import Any

from firstboot.policy.model import Block, Direction, Network, Pod, Pods, Policy, Port, Protocol, Rule
from firstboot.policy.nft import Chain, Map, Ruleset, Set
from firstboot.policy.selectors import Index, Labels

BRIDGE = "cni0"
"""Where all pods of a node are plugged in."""
FAMILIES = {4: "ip", 6: "ip6"}
ADDRESSES = {4: "ipv4_addr", 6: "ipv6_addr"}
OPENER, ASKED = "ct original {} saddr", "ct reply {} saddr"
"""Who has opened a connection, and who is asked; each by family."""
OWN = {Direction.EGRESS: OPENER, Direction.INGRESS: ASKED}
PEER = {Direction.EGRESS: ASKED, Direction.INGRESS: OPENER}
HOOKED = {Direction.EGRESS: "from-pods", Direction.INGRESS: "to-pods"}
"""Names of the chains in which packets come in."""
PRIORITIES = {Direction.EGRESS: -5, Direction.INGRESS: 0}
"""Both come after addresses were translated on arrival, and before that is done on leaving."""
NEIGHBOURS = (
    *("nd-neighbor-solicit", "nd-neighbor-advert", "nd-router-solicit", "nd-router-advert", "nd-redirect"),
    *("mld-listener-query", "mld-listener-report", "mld-listener-done", "mld2-listener-report"),
)
"""What finds neighbours of IPv6, and belongs to no connection."""
LONGEST_NAME = 120
"""Characters of a chain's name that are a policy's; nftables takes 255 in all."""


@dataclass(frozen=True)
class Compiled:
    """What a node has to enforce.

    isolated: how many of its pods are selected
    pending:  of those, titles of pods whose address is not known yet
    """

    ruleset: Ruleset
    isolated: int = 0
    pending: tuple[str, ...] = ()


def compile_rules(
    policies: Iterable[Policy],
    pods: Iterable[Pod],
    namespaces: Mapping[str, Labels],
    node: str,
    known: Callable[[Pod], bool] = lambda pod: bool(pod.addresses),
) -> Compiled:
    """Return what the node enforces; known: whether the addresses of one of its pods are to be believed."""
    everybody = tuple(pods)
    local = {(pod.namespace, pod.name): pod for pod in everybody if pod.node == node}
    builder = _Builder(Index(everybody, namespaces))
    selected: dict[Direction, defaultdict[tuple[str, str], list[str]]] = {
        direction: defaultdict(list) for direction in Direction
    }
    unknown: dict[Direction, set[str]] = {direction: set() for direction in Direction}
    for policy in sorted(policies, key=lambda each: each.title):
        mine = [pod for pod in builder.index.pods(policy.namespace, policy.pods) if pod.node == node]
        there = [pod for pod in mine if known(pod)]
        for direction in Direction:
            rules = policy.rules(direction)
            if rules is None:
                continue
            unknown[direction].update(f"{pod.namespace}/{pod.name}" for pod in mine if not known(pod))
            if there:
                chain = builder.policy(policy, direction, rules, there)
                for pod in there:
                    selected[direction][pod.namespace, pod.name].append(chain)
    for direction in Direction:
        members = [(local[name], tuple(chains)) for name, chains in selected[direction].items()]
        builder.direction(direction, members, closed=bool(unknown[direction]))
    builder.local([pod for pod in local.values() if known(pod)])
    isolated = {name for pods_of in selected.values() for name in pods_of}
    pending = sorted(set().union(*unknown.values()))
    return Compiled(builder.ruleset, len(isolated) + len(pending), tuple(pending))


@dataclass
class _Builder:
    """Collects chains, and sets that are known by what is meant with them, so that rules share them."""

    index: Index
    sets: dict[str, Set] = field(default_factory=dict)
    maps: dict[str, Map] = field(default_factory=dict)
    chains: dict[str, Chain] = field(default_factory=dict)
    _known: dict[Any, dict[int, str]] = field(default_factory=dict)

    @property
    def ruleset(self) -> Ruleset:
        """All of it."""
        return Ruleset(self.sets, self.maps, self.chains)

    def policy(self, policy: Policy, direction: Direction, rules: tuple[Rule, ...], mine: list[Pod]) -> str:
        """Make the chain that accepts what a policy allows in a direction; mine: pods of this node it selects."""
        lines = (line for rule in rules for line in self._rule(policy, direction, rule, mine))
        # Several rules may say the same.
        name = _chain_name(direction, policy)
        self.chains[name] = Chain(tuple(dict.fromkeys(lines)))
        return name

    def direction(
        self, direction: Direction, members: list[tuple[Pod, tuple[str, ...]]], *, closed: bool
    ) -> None:
        """Make of pods with the chains of their policies what is done with packets that come in.

        closed: whether a pod that is not known yet is isolated, so that unknown ones are
        """
        word = direction.value.lower()
        verdicts: dict[int, dict[str, str]] = {family: {} for family in FAMILIES}
        for pod, chains in members:
            group = f"{word}_{_digest(chains)}"
            self.chains.setdefault(group, Chain((*(f"jump {each}" for each in chains), "drop")))
            for address in pod.addresses:
                verdicts[_family(address)][address] = f"jump {group}"
        for family, elements in verdicts.items():
            self.maps[f"{word}{family}"] = Map(ADDRESSES[family], elements)
            itself = frozenset(f"{address} . {address}" for address in elements)
            self.sets[f"{word}-itself{family}"] = Set(f"{ADDRESSES[family]} . {ADDRESSES[family]}", itself)
            self.sets[f"{word}-isolated{family}"] = Set(ADDRESSES[family], frozenset(elements))
        self.chains[f"stray-{word}"] = Chain(tuple(_stray(direction)))
        hook = f"type filter hook forward priority {PRIORITIES[direction]}; policy accept;"
        rules = tuple(_hooked(direction, closed)) if members or closed else ()
        self.chains[HOOKED[direction]] = Chain(rules, hook)

    def local(self, pods: Iterable[Pod]) -> None:
        """Make the sets of addresses that pods of this node have."""
        addresses = [address for pod in pods for address in pod.addresses]
        for family in FAMILIES:
            own = frozenset(each for each in addresses if _family(each) == family)
            self.sets[f"local{family}"] = Set(ADDRESSES[family], own)

    def _rule(self, policy: Policy, direction: Direction, rule: Rule, mine: list[Pod]) -> Iterator[str]:
        """Yield the lines of one rule: every kind of peer with every kind of port."""
        ports = list(self._ports(policy, direction, rule, mine))
        for family, peer in self._peers(policy, direction, rule):
            for other, port in ports:
                if not family or not other or family == other:
                    yield " ".join(filter(None, (peer, port, "accept")))

    def _peers(self, policy: Policy, direction: Direction, rule: Rule) -> Iterator[tuple[int, str]]:
        """Yield how peers are known, with the family of their addresses; 0: whatever it is."""
        if rule.peers is None:
            yield 0, ""
            return
        for peer in rule.peers:
            found = self._block(peer) if isinstance(peer, Block) else self._pods(policy, peer)
            for family, name in found.items():
                yield family, f"{PEER[direction].format(FAMILIES[family])} @{name}"

    def _ports(
        self, policy: Policy, direction: Direction, rule: Rule, mine: list[Pod]
    ) -> Iterator[tuple[int, str]]:
        """Yield how ports are known, with the family of their pods' addresses; 0: whatever it is."""
        if rule.ports is None:
            yield 0, ""
            return
        for protocol in Protocol:
            ports = [port for port in rule.ports if port.protocol is protocol]
            numbers = [port for port in ports if port.name is None]
            if any(port.first is None for port in numbers):
                yield 0, f"meta l4proto {protocol.lower()}"
                continue
            if numbers:
                yield 0, f"meta l4proto {protocol.lower()} ct reply proto-src @{self._numbers(numbers)}"
            for name in dict.fromkeys(port.name for port in ports if port.name is not None):
                for family, found in self._named(policy, direction, rule, mine, name, protocol).items():
                    asked = ASKED.format(FAMILIES[family])
                    yield family, f"meta l4proto {protocol.lower()} {asked} . ct reply proto-src @{found}"

    def _pods(self, policy: Policy, peer: Pods) -> dict[int, str]:
        """Return the sets with the addresses of pods by family, none for a family in which there are none."""

        def elements() -> Iterator[tuple[int, str]]:
            for pod in self.index.peers(peer, policy.namespace):
                for address in pod.addresses:
                    yield _family(address), address

        own = policy.namespace if peer.namespaces is None else ""
        return self._shared(("pods", own, peer), "pods", ADDRESSES, elements)

    def _block(self, block: Block) -> dict[int, str]:
        family = block.network.version
        elements = ((family, str(each)) for each in without(block.network, block.excepted))
        return self._shared(block, "block", ADDRESSES, lambda: elements, interval=True)

    def _numbers(self, ports: list[Port]) -> str:
        """Return the set of ports; each of them has a number."""
        ranges = merged((port.first or 0, port.last or 0) for port in ports)
        words = (str(first) if first == last else f"{first}-{last}" for first, last in ranges)
        types = {0: "inet_service"}
        return self._shared(ranges, "ports", types, lambda: ((0, word) for word in words), interval=True)[0]

    def _named(
        self,
        policy: Policy,
        direction: Direction,
        rule: Rule,
        mine: list[Pod],
        name: str,
        protocol: Protocol,
    ) -> dict[int, str]:
        """Return the sets of addresses with the port that those who are asked call so."""
        if direction is Direction.INGRESS:
            asked: Iterable[Pod] = mine
            key: tuple[Any, ...] = (policy.namespace, policy.pods)
        else:
            asked = self._asked(policy, rule)
            key = (policy.namespace, rule.peers)

        def elements() -> Iterator[tuple[int, str]]:
            for pod in asked:
                if port := pod.ports.get((name, protocol)):
                    for address in pod.addresses:
                        yield _family(address), f"{address} . {port}"

        types = {family: f"{type} . inet_service" for family, type in ADDRESSES.items()}
        return self._shared(("named", *key, name, protocol), "named", types, elements)

    def _asked(self, policy: Policy, rule: Rule) -> Iterator[Pod]:
        """Yield the pods that may be asked by a rule: which of its peers they are is looked at beside the port."""
        if rule.peers is None or any(isinstance(peer, Block) for peer in rule.peers):
            yield from self.index.everybody()
            return
        for peer in rule.peers:
            if isinstance(peer, Pods):
                yield from self.index.peers(peer, policy.namespace)

    def _shared(
        self,
        key: Any,
        word: str,
        types: Mapping[int, str],
        elements: Callable[[], Iterable[tuple[int, str]]],
        *,
        interval: bool = False,
    ) -> dict[int, str]:
        """Return the names of sets by the key of their type, made when they are asked for the first time.

        key: what is meant; elements: of the sets, with the key of their type
        """
        if key not in self._known:
            by_type: defaultdict[int, set[str]] = defaultdict(set)
            for type, element in elements():
                by_type[type].add(element)
            digest = _digest(key)
            self._known[key] = names = {type: f"{word}{type or ''}-{digest}" for type in sorted(by_type)}
            for type, name in names.items():
                self.sets[name] = Set(types[type], frozenset(by_type[type]), interval)
        return self._known[key]


def without(network: Network, excepted: Iterable[Network]) -> list[Network]:
    """Return a network as those that remain of it without some others."""
    left: list[Any] = [network]
    for other in excepted:
        if other.version != network.version:
            continue
        kept: list[Any] = []
        for each in left:
            if not each.overlaps(other):
                kept.append(each)
            elif each != other and each.supernet_of(other):
                kept.extend(each.address_exclude(other))
        left = kept
    return list(collapse_addresses(left))


def merged(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return ranges of ports in order, those that touch or overlap as one."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return tuple(found)


def closed() -> Ruleset:
    """Return what lets nothing of any pod pass: before it is known what to enforce."""
    builder = _Builder(Index((), {}))
    for direction in Direction:
        builder.direction(direction, [], closed=True)
    builder.local(())
    return builder.ruleset


def _hooked(direction: Direction, closed: bool) -> Iterator[str]:
    """Yield the rules for packets that come in."""
    word = direction.value.lower()
    # Errors about connections: those that were not allowed have never got so far.
    yield "meta l4proto { icmp, ipv6-icmp } ct state related accept"
    yield f"ct state invalid,untracked jump stray-{word}"
    # Of a connection whose beginning nobody has seen it cannot be told who has opened it.
    yield f"ct state new tcp flags & (fin | syn | rst | ack) != syn jump stray-{word}"
    # By addresses that need no router pods would get past all that follows.
    for end in ("saddr", "daddr"):
        yield f'iifname "{BRIDGE}" oifname "{BRIDGE}" ip6 {end} fe80::/10 drop'
    for family, spoken in FAMILIES.items():
        opener, asked = OPENER.format(spoken), ASKED.format(spoken)
        yield f"{opener} . {asked} @{word}-itself{family} accept"
        yield f"{OWN[direction].format(spoken)} vmap @{word}{family}"
    if closed:
        card, end = ("iifname", "saddr") if direction is Direction.EGRESS else ("oifname", "daddr")
        for family, spoken in FAMILIES.items():
            yield f'{card} "{BRIDGE}" ct direction original {spoken} {end} != @local{family} drop'


def _stray(direction: Direction) -> Iterator[str]:
    """Yield the rules for packets of no known connection: an isolated pod neither sends nor gets them."""
    yield f"icmpv6 type {{ {', '.join(NEIGHBOURS)} }} accept"
    for family, spoken in FAMILIES.items():
        for end in ("saddr", "daddr"):
            yield f"{spoken} {end} @{direction.value.lower()}-isolated{family} drop"


def _chain_name(direction: Direction, policy: Policy) -> str:
    """Return a name in which people find the policy; a name that is too long is cut, and stays its own."""
    name = f"{policy.namespace}/{policy.name}"
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}_{_digest(name)}"
    return f"{direction.value.lower()}_{name}"


def _digest(meant: Any) -> str:
    return hashlib.sha256(repr(meant).encode()).hexdigest()[:16]


def _family(address: str) -> int:
    return 6 if ":" in address else 4
