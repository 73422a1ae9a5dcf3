# SPDX-License-Identifier: Apache-2.0
"""What the settings of the feature load-balancer have to be like, in a document and on a machine."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING

from firstboot.codes import Code
from firstboot.config import LoadBalancerFeature
from firstboot.failure import Failure
from firstboot.loadbalancer.addresses import BadSpan, Span, parse, spans
from firstboot.rules.model import NODE_IP, NODE_IPV6, POD_CIDR, SERVICE_CIDR, VIRTUAL_ADDRESS, Rules
from firstboot.schemacheck import show
from firstboot.strictyaml import Path, show_path
from firstboot.values import UNUSABLE, is_of_one_machine

if TYPE_CHECKING:
    from firstboot.facts import Facts

HERE: Path = ("basalt", "features", "load-balancer")
CIDRS, L2, INTERFACES = (*HERE, "cidrs"), (*HERE, "l2-mode"), (*HERE, "l2-interfaces")
BGP, LOCAL, PEERS = (*HERE, "bgp-mode"), (*HERE, "bgp-local-asn"), (*HERE, "bgp-peers")
MACHINES: tuple[tuple[Path, str], ...] = (
    (NODE_IP, "this machine"),
    (NODE_IPV6, "this machine"),
    (VIRTUAL_ADDRESS, "the API"),
)
RESERVED_ASN = {23456: "stands for any number above 65535", 65535: "is for nobody"}
UNUSABLE_SPANS = tuple(Span.parse(str(each)) for each in UNUSABLE)


def check(rules: Rules) -> None:
    """Note what is wrong with the document's settings."""
    known = list(_spans(rules))
    _apart(rules, known)
    _outside(rules, known)
    _routers(rules, known)
    if rules.value((*HERE, "enabled")):
        _complete(rules)


def _spans(rules: Rules) -> Iterator[tuple[Path, Span]]:
    for path, text in rules.entries(CIDRS):
        try:
            span = Span.parse(text)
        except BadSpan as error:
            rules.fail(Code.BAD_NETWORK, path, show(str(error)), show(error.remedy))
            continue
        if other := next((each for each in UNUSABLE_SPANS if each.overlaps(span)), None):
            found = f"`{show(text)}` has addresses of {other}, which cannot be reached by other machines"
            rules.fail(Code.BAD_NETWORK, path, found, "Choose addresses that clients can reach.")
            continue
        yield path, span


def _apart(rules: Rules, known: list[tuple[Path, Span]]) -> None:
    """No address stands there twice."""
    for number, (path, span) in enumerate(known):
        if other := next((where for where, each in known[:number] if each.overlaps(span)), None):
            found = f"{span} shares addresses with item {other[-1]}"
            rules.fail(Code.OVERLAP, path, found, "Write each address once.")


def _outside(rules: Rules, known: list[tuple[Path, Span]]) -> None:
    """Nothing else has any of them."""
    networks = [
        (path[-1], network)
        for path in (POD_CIDR, SERVICE_CIDR)
        if not rules.bad_above(path)
        for network in rules.networks_at(path)
    ]
    machines = [(parse(str(rules.value(path))), path, who) for path, who in MACHINES if rules.value(path)]
    for path, span in known:
        for key, network in networks:
            if Span(network[0], network[-1]).overlaps(span):
                found = f"{span} shares addresses with `{key}` {network}"
                rules.fail(Code.OVERLAP, path, found, "Choose addresses outside of the cluster's networks.")
        for address, where, who in machines:
            if address is not None and address in span:
                found = f"{span} contains {address}, the address of {who} (`{'.'.join(map(str, where[1:]))}`)"
                rules.fail(Code.OVERLAP, path, found, "Choose addresses that no machine has.")


def _routers(rules: Rules, known: list[tuple[Path, Span]]) -> None:
    """Routers and autonomous systems are some."""
    _system(rules, LOCAL)
    seen: dict[tuple[str, int], int] = {}
    for path, peer in rules.entries(PEERS):
        _system(rules, (*path, "asn"))
        where = (*path, "address")
        if rules.is_bad(where):
            continue
        text = peer["address"]
        address = parse(text) if "%" not in text else None
        if address is None or not is_of_one_machine(address):
            rules.fail(
                Code.BAD_ADDRESS,
                where,
                f"`{show(text)}` is no IP address of a router",
                "Write an address that every node reaches, e.g. `192.0.2.1`.",
            )
            continue
        if any(address in span for _, span in known):
            remedy = "Take it out of `cidrs`: a Service must not be given the address of a router."
            rules.fail(Code.OVERLAP, where, f"{address} is one of `cidrs`", remedy)
        first = seen.setdefault((str(address), peer.get("port", 179)), int(path[-1]))
        if first != path[-1]:
            found = f"{address} is item {first} once more"
            rules.fail(Code.BAD_VALUE, path, found, "Write each router once.")


def _system(rules: Rules, path: Path) -> None:
    number = rules.value(path) if path == LOCAL else _item(rules, path)
    if number in RESERVED_ASN:
        found = f"{number} is no autonomous system's number: it {RESERVED_ASN[number]}"
        rules.fail(Code.BAD_VALUE, path, found, "Write another one, e.g. 64512 of those for private use.")


def _item(rules: Rules, path: Path) -> int | None:
    """Return what an item of the list of routers says, None where that is wrong already."""
    peer = dict(rules.entries(PEERS))[path[:-1]]
    return None if rules.is_bad(path) else peer["asn"]


def _complete(rules: Rules) -> None:
    """Nothing is missing in what is switched on."""
    l2, bgp = rules.value(L2), rules.value(BGP)
    if not rules.value(CIDRS) and not rules.bad_above(CIDRS):
        remedy = "Write addresses that no machine has, e.g. `cidrs: [192.0.2.64/28]`."
        rules.fail(Code.MISSING_KEY, CIDRS, "there is no address to give", remedy)
    if not l2 and not bgp and not any(rules.bad_above(path) for path in (L2, BGP)):
        found = "nobody outside would learn of the addresses"
        rules.fail(Code.MISSING_KEY, L2, found, "Write `l2-mode: true`, `bgp-mode: true` or both.")
    if not bgp:
        return
    if rules.value(LOCAL) is None and not rules.bad_above(LOCAL):
        remedy = "Write the number of the nodes' autonomous system, e.g. `bgp-local-asn: 64512`."
        rules.fail(Code.MISSING_KEY, LOCAL, "`bgp-mode` needs it", remedy)
    if not rules.value(PEERS) and not rules.bad_above(PEERS):
        remedy = "Write the routers to tell, e.g. `bgp-peers: [{address: 192.0.2.1, asn: 64513}]`."
        rules.fail(Code.MISSING_KEY, PEERS, "`bgp-mode` has nobody to speak to", remedy)


def check_facts(feature: LoadBalancerFeature, facts: Facts) -> Iterator[Failure]:
    """Yield what keeps a machine from being a node of a cluster with these settings."""
    if not feature.enabled:
        return
    known = spans(feature.cidrs)
    for name, text in facts.named_addresses:
        for number, span in enumerate(known):
            if ip_address(text) in span:
                yield Failure(
                    Code.ADDRESS_TAKEN,
                    show_path((*CIDRS, number)),
                    f"{span} contains {text}, which this machine has on {name}",
                    "Take the address out of `cidrs`, or give the machine another one.",
                )
    if feature.l2_mode and feature.l2_interfaces and not set(feature.l2_interfaces) & set(facts.links):
        yield Failure(
            Code.NOT_ON_NODE,
            show_path(INTERFACES),
            f"this machine has none of {', '.join(feature.l2_interfaces)}; it has {', '.join(facts.links) or 'none'}",
            "Name an interface of each machine, or remove the key.",
        )
