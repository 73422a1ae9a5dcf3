# SPDX-License-Identifier: Apache-2.0
"""Addresses of Services: which there are, who gets which, who may take packets for them, and what programs are told."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from firstboot.config import BgpPeer, Config
from firstboot.loadbalancer import bird, keepalived
from firstboot.loadbalancer.addresses import BadSpan, Pool, Span, router_id, spans
from firstboot.loadbalancer.allocator import Decision, decide
from firstboot.loadbalancer.keepalived import Cards
from firstboot.loadbalancer.objects import Member, Service, endpoints_on, member, service
from firstboot.loadbalancer.speaker import Duty, carried_apart, duties, given, priority

POOL = Pool(spans(["192.0.2.64/29", "2001:db8::10-2001:db8::11"]))
CARDS = Cards("192.0.2.1", (("eth0", "192.0.2.1/24"), ("eth1", "198.51.100.1/25")))


def wants(name: str, *wanted: str, **more: Any) -> Service:
    more = {"created": "2026-11-26T22:00:00Z", "uid": name, "version": "1", **more}
    return Service("default", name, wanted=wanted, **more)


def got(decisions: dict[str, Decision]) -> dict[str, list[str]]:
    return {
        key.removeprefix("default/"): [str(each) for each in decision.addresses]
        for key, decision in decisions.items()
    }


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("192.0.2.64/28", "192.0.2.64", "192.0.2.79"),
        ("192.0.2.64-192.0.2.79", "192.0.2.64", "192.0.2.79"),
        ("192.0.2.64 - 192.0.2.64", "192.0.2.64", "192.0.2.64"),
        ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("2001:db8::/126", "2001:db8::", "2001:db8::3"),
        ("2001:db8::a-2001:db8::1:0", "2001:db8::a", "2001:db8::1:0"),
    ],
)
def test_networks_and_ranges(text: str, first: str, last: str) -> None:
    assert Span.parse(text) == Span(ip_address(first), ip_address(last))


@pytest.mark.parametrize(
    ("text", "found", "remedy"),
    [
        ("192.0.2.65/28", "an address inside of 192.0.2.64/28", "Write `192.0.2.64/28`."),
        ("192.0.2.64/33", "no network and no range", "such as"),
        ("lots", "no network and no range", "such as"),
        ("192.0.2.64-79", "not two addresses", "in full"),
        ("192.0.2.79-192.0.2.64", "ends before it begins", "Write `192.0.2.64-192.0.2.79`."),
        ("192.0.2.64-2001:db8::1", "from IPv4 to IPv6", "two ranges"),
    ],
)
def test_what_is_neither_says_what_to_write(text: str, found: str, remedy: str) -> None:
    with pytest.raises(BadSpan, match=found) as raised:
        Span.parse(text)
    assert remedy in raised.value.remedy


@pytest.mark.parametrize(
    ("texts", "more", "size"),
    [
        (["192.0.2.0/24"], {}, 254),
        (["192.0.2.254-192.0.3.1"], {}, 2),
        (["192.0.2.0/30"], {"taken": {ip_address("192.0.2.1"): "x", ip_address("192.0.2.0"): "y"}}, 2),
        (["10.0.0.0/16"], {}, 65536 - 512),
        (["10.0.0.0/16"], {"in_l2": True}, 255),
        (["10.0.0.0/16"], {"in_l2": True, "foreign": 7}, 254),
        (["2001:db8::/120", "192.0.2.9"], {}, 257),
    ],
)
def test_how_many_there_are(texts: list[str], more: dict[str, Any], size: int) -> None:
    pool = Pool(spans(texts), **more)
    assert pool.size == size
    if not pool.in_l2:
        assert pool.size == sum(1 for version in (4, 6) for _ in pool.candidates(version))


@pytest.mark.parametrize(
    ("services", "expected", "reason"),
    [
        ([wants("b"), wants("a")], {"a": ["192.0.2.64"], "b": ["192.0.2.65"]}, None),
        ([wants("a", created="2026-11-27"), wants("b")], {"b": ["192.0.2.64"], "a": ["192.0.2.65"]}, None),
        ([wants("a", current=("192.0.2.70",)), wants("0")], {"0": ["192.0.2.64"], "a": ["192.0.2.70"]}, None),
        ([wants("a", "192.0.2.66"), wants("b", "192.0.2.66")], {"a": ["192.0.2.66"], "b": []}, "default/a"),
        ([wants("a", "192.0.2.66", current=("192.0.2.64",))], {"a": ["192.0.2.66"]}, None),
        ([wants("a", "192.0.2.80")], {"a": []}, "not in features.load-balancer.cidrs"),
        ([wants("a", "192.0.2.80", current=("192.0.2.64",))], {"a": ["192.0.2.64"]}, "it keeps 192.0.2.64"),
        ([wants("a", "here")], {"a": []}, "`here`, which it asks for, is no IP address"),
        ([wants("a", "2001:db8::10")], {"a": []}, "its ipFamilies are IPv4"),
        ([wants("a", "192.0.2.65", "192.0.2.66")], {"a": []}, "two addresses of IPv4"),
        ([wants("a", families=(4, 6))], {"a": ["192.0.2.64", "2001:db8::10"]}, None),
        ([wants("a", "2001:db8::11", families=(6, 4))], {"a": ["2001:db8::11", "192.0.2.64"]}, None),
        ([wants("a", current=("198.51.100.9",))], {"a": ["192.0.2.64"]}, None),
        ([wants("a", current=("elb.example.org",))], {"a": ["192.0.2.64"]}, None),
        ([wants("a", ours=False, current=("192.0.2.64",)), wants("b")], {"b": ["192.0.2.64"]}, None),
        (
            [wants("b", current=("192.0.2.65",)), wants("a", current=("192.0.2.65",))],
            {"a": ["192.0.2.65"], "b": ["192.0.2.64"]},
            None,
        ),
    ],
)
def test_who_gets_which(services: list[Service], expected: dict[str, list[str]], reason: str | None) -> None:
    decisions = decide(services, POOL)
    assert got(decisions) == expected
    reasons = [each.reason for each in decisions.values() if each.reason]
    assert [reason in each for each in reasons if reason] == ([] if reason is None else [True])


def test_when_all_are_in_use_the_youngest_waits() -> None:
    decisions = decide([wants(f"s{number}") for number in range(9)], POOL)
    assert [key for key, each in decisions.items() if not each.addresses] == ["default/s8"]
    assert "all IPv4 addresses of features.load-balancer.cidrs are in use" in str(
        decisions["default/s8"].reason
    )


def test_what_somebody_else_has_is_not_given() -> None:
    pool = replace(POOL, taken={ip_address("192.0.2.64"): "the node node-1"})
    decisions = decide([wants("a"), wants("b", "192.0.2.64")], pool)
    assert got(decisions)["a"] == ["192.0.2.65"]
    assert "192.0.2.64, which it asks for, belongs to the node node-1" in str(decisions["default/b"].reason)


def test_in_layer_2_no_two_end_alike() -> None:
    pool = Pool(spans(["192.0.2.7", "198.51.100.7-198.51.100.8", "203.0.113.9"]), in_l2=True, foreign=9)
    decisions = decide([wants("a"), wants("b"), wants("c"), wants("d", "198.51.100.7")], pool)
    assert got(decisions) == {"a": ["192.0.2.7"], "b": ["198.51.100.8"], "c": [], "d": []}
    assert "or end as one that is" in str(decisions["default/c"].reason)
    assert "the same VRRP id (7) as the Service default/a" in str(decisions["default/d"].reason)
    asks = decide([wants("a", "203.0.113.9")], pool)["default/a"].reason
    assert "as the API's virtual address" in str(asks)


def test_the_end_of_a_large_pool_is_found_soon() -> None:
    pool = Pool(spans(["10.0.0.0/8", "2001:db8::/64"]), in_l2=True)
    decisions = decide(
        [wants(f"s{number:03}", families=(4 + number % 2 * 2,)) for number in range(300)], pool
    )
    assert sum(1 for each in decisions.values() if each.addresses) == 255
    many = decide([wants(f"s{number:05}") for number in range(5000)], replace(pool, in_l2=False))
    assert len({each.addresses for each in many.values()}) == 5000


@pytest.mark.parametrize("seed", range(20))
def test_no_address_is_given_twice_or_lost(seed: int) -> None:
    """Services come, go, change their minds and are hit by mistakes of others; each decision is written down."""
    chance = random.Random(seed)
    pool = Pool(spans(["192.0.2.64/29"]), in_l2=bool(seed % 2))
    services: dict[str, Service] = {}
    for turn in range(150):
        name = f"s{chance.randrange(14)}"
        match chance.randrange(6):
            case 0:
                services.pop(name, None)
            case 1 if name in services:
                address = f"192.0.2.{chance.randrange(62, 74)}"
                services[name] = replace(services[name], wanted=(address,) if chance.random() < 0.7 else ())
            case 2 if name in services:
                services[name] = replace(services[name], current=(f"192.0.2.{chance.randrange(60, 76)}",))
            case 3 if chance.random() < 0.1:
                pool = replace(pool, spans=spans([chance.choice(["192.0.2.64/29", "192.0.2.66/31"])]))
            case _:
                services.setdefault(name, wants(name, created=f"{turn:03}"))
        before = {name: each.current for name, each in services.items()}
        decisions = decide(services.values(), pool)
        again = decide(reversed(services.values()), pool)
        assert decisions == again, "it does not depend on the order of the list"
        used = [address for each in decisions.values() for address in each.addresses]
        assert len(used) == len(set(used)) and all(address in pool for address in used)
        holders = [ip_address(address) for current in before.values() for address in current]
        for name, each in services.items():
            decision = decisions[f"default/{name}"]
            valid = [ip_address(text) for text in each.current if ip_address(text) in pool]
            if valid and holders.count(valid[0]) == 1:
                asked = [ip_address(text) for text in each.wanted]
                assert decision.addresses == tuple(valid) or decision.addresses == tuple(asked)
            if not decision.addresses and not each.wanted:
                assert len(used) == pool.size, "there is none left"
            services[name] = replace(each, current=tuple(map(str, decision.addresses)))
        kept = decide(services.values(), pool)
        assert all(kept[key].addresses == each.addresses for key, each in decisions.items() if each.addresses)


def obj(**spec: Any) -> dict[str, Any]:
    metadata = {
        "name": "web",
        "namespace": "shop",
        "uid": "u",
        "resourceVersion": "7",
        "creationTimestamp": "t",
    }
    return {
        "metadata": metadata,
        "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"], **spec},
        "status": {},
    }


def test_what_is_kept_of_a_service() -> None:
    found = obj(loadBalancerIP="192.0.2.66", externalTrafficPolicy="Local")
    found["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.64"}]}}
    kept = service(found)
    assert kept is not None
    assert (kept.key, kept.wanted, kept.current, kept.local, kept.ours, kept.families) == (
        *("shop/web", ("192.0.2.66",), ("192.0.2.64",)),
        *(True, True, (4,)),
    )
    found["metadata"]["annotations"] = {"basalt.io/load-balancer-ips": "192.0.2.67, 2001:db8::10"}
    asks = service(found)
    assert asks is not None and asks.wanted == ("192.0.2.67", "2001:db8::10"), "it goes before loadBalancerIP"


@pytest.mark.parametrize("spec", [{"type": "ClusterIP"}, {"loadBalancerClass": "example.org/other"}])
def test_services_of_others_are_left_alone_unless_they_were_ours(spec: dict[str, Any]) -> None:
    found = obj(**spec)
    found["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.64"}]}}
    assert service(found) is None
    found["metadata"]["managedFields"] = [{"manager": "load-balancer", "subresource": "status"}]
    left = service(found)
    assert left is not None and not left.ours and left.current == ("192.0.2.64",)


def test_endpoints_and_nodes() -> None:
    endpoint = {"addresses": ["10.1.0.2"], "nodeName": "node-1", "conditions": {"ready": True}}
    metadata = {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}}
    assert endpoints_on("node-1", {"metadata": metadata, "endpoints": [endpoint]}) == "shop/web"
    assert endpoints_on("node-2", {"metadata": metadata, "endpoints": [endpoint]}) is None
    unready = {**endpoint, "conditions": {"ready": False}}
    assert endpoints_on("node-1", {"metadata": metadata, "endpoints": [unready]}) is None
    assert endpoints_on("node-1", {"metadata": metadata, "endpoints": None}) is None
    node: dict[str, Any] = {"metadata": {"name": "node-1"}, "status": {}}
    assert member(node) is None
    node["status"]["addresses"] = [
        {"type": "Hostname", "address": "x"},
        {"type": "InternalIP", "address": "192.0.2.1"},
    ]
    assert member(node) == Member(("192.0.2.1",))
    node["status"]["addresses"].append({"type": "InternalIP", "address": "2001:db8::1"})
    assert member(node) == Member(("192.0.2.1", "2001:db8::1"))
    node["metadata"]["labels"] = {"node.kubernetes.io/exclude-from-external-load-balancers": ""}
    assert member(node) == Member(("192.0.2.1", "2001:db8::1"), excluded=True)


NODES = {f"node-{number}": Member((f"192.0.2.{number}",)) for number in (1, 2, 3)}


def test_a_node_takes_packets_for_what_it_can_serve() -> None:
    services = [
        wants("all", current=("192.0.2.64",)),
        wants("here", current=("192.0.2.65",), local=True),
        wants("elsewhere", current=("192.0.2.66",), local=True),
        wants("foreign", current=("203.0.113.1",)),
        wants("nothing"),
    ]
    known = given(services, POOL)
    mine = duties(known, NODES, "node-1", {"default/here"})
    assert [(str(each.address), each.service) for each in mine] == [
        ("192.0.2.64", "default/all"),
        ("192.0.2.65", "default/here"),
    ]
    away = {**NODES, "node-1": Member(("192.0.2.1",), excluded=True)}
    assert duties(known, away, "node-1", {"default/here"}) == ()
    assert duties(known, {}, "node-1", ()) == ()


def test_of_two_with_the_same_address_the_older_one_has_it() -> None:
    both = [
        wants("b", current=("192.0.2.64",), created="1"),
        wants("a", current=("192.0.2.64",), created="2"),
    ]
    assert {each.key for each in given(both, POOL).values()} == {"default/b"}


def test_addresses_are_spread_and_stay_when_a_node_goes() -> None:
    addresses = [ip_address(f"192.0.2.{number}") for number in range(10, 250)]
    names = list(NODES)

    def first(address: Any, among: list[str]) -> str:
        return max(among, key=lambda name: priority(address, name, among))

    owners = [first(address, names) for address in addresses]
    assert all(50 < owners.count(name) < 110 for name in names)
    rest = names[:2]
    moved = [
        before for address, before in zip(addresses, owners, strict=True) if first(address, rest) != before
    ]
    assert set(moved) == {"node-3"}
    for among in (names, [f"n{number}" for number in range(40)]):
        values = {priority(addresses[0], name, among) for name in among}
        assert len(values) == len(among) and min(values) >= 1 and max(values) <= 254


def test_keepalived_is_told_of_each_address_by_itself() -> None:
    mine = [Duty(ip_address("192.0.2.64"), "a", 250), Duty(ip_address("2001:db8::10"), "b", 90)]
    text = keepalived.configuration(mine, ["192.0.2.3", "192.0.2.1", "192.0.2.2"], CARDS)
    first, second = text.split("vrrp_instance ")[1:]
    assert (
        first.startswith("192.0.2.64 {") and "virtual_router_id 64\n" in first and "priority 250\n" in first
    )
    assert "unicast_src_ip 192.0.2.1\n" in first and "        192.0.2.2\n        192.0.2.3\n" in first
    assert "        192.0.2.64/32 dev eth0\n" in first
    assert "        2001:db8::10/128 dev eth0\n" in second.partition("virtual_ipaddress_excluded")[2]
    assert "127.0.112.16/32 dev lo" in second
    alone = keepalived.configuration(mine[:1], ["192.0.2.1"], CARDS)
    assert "    unicast_peer {\n        192.0.2.1\n    }" in alone, "without a partner it would be multicast"


@pytest.mark.parametrize(
    ("chosen", "address", "card"),
    [
        ((), "198.51.100.9", "eth1"),
        ((), "203.0.113.9", "eth0"),
        (("eth1",), "192.0.2.64", "eth1"),
        (("eth1", "eth0"), "192.0.2.64", "eth0"),
        (("eth7",), "192.0.2.64", "eth7"),
    ],
)
def test_an_address_is_put_where_it_belongs(chosen: tuple[str, ...], address: str, card: str) -> None:
    assert replace(CARDS, chosen=chosen).place(ip_address(address)) == card


def test_an_id_is_used_once_and_never_that_of_the_api() -> None:
    mine = [Duty(ip_address(each), each, 1) for each in ("192.0.2.7", "192.0.2.8", "198.51.100.7")]
    apart, rest = carried_apart(mine, 8)
    assert [str(each.address) for each in apart] == ["192.0.2.7"]
    assert [str(each.address) for each in rest] == ["192.0.2.8", "198.51.100.7"]
    assert router_id(ip_address("192.0.2.0")) == 255


def test_bird_tells_routers_and_learns_nothing() -> None:
    peers = (BgpPeer("192.0.2.254", 64513), BgpPeer("203.0.113.1", 64512, 1790))
    text = bird.configuration(
        [ip_address("192.0.2.64"), ip_address("2001:db8::10")], (4, 6), CARDS, 64512, peers
    )
    assert "route 192.0.2.64/32 blackhole;" in text and "route 2001:db8::10/128 blackhole;" in text
    assert "neighbor 192.0.2.254 port 179 as 64513;\n    direct;" in text
    assert "neighbor 203.0.113.1 port 1790 as 64512;\n    multihop;" in text
    assert text.count("import none") == 2 and "protocol kernel" not in text


def test_routers_are_told_to_reach_addresses_by_those_of_the_node_in_sessions_of_either_version() -> None:
    peers = (BgpPeer("192.0.2.254", 64513),)
    for cards in (replace(CARDS, ipv6="2001:db8::1"), Cards("2001:db8::1", (), ipv6=None)):
        text = bird.configuration([ip_address("2001:db8::10")], (6,), cards, 64512, peers)
        assert "ipv6 { import none;" in text and "next hop address 2001:db8::1;" in text
    text = bird.configuration([], (4, 6), CARDS, 64512, peers)
    assert text.count("next hop address") == 1 and "next hop address 192.0.2.1;" in text


def test_sessions_that_are_missing_are_said() -> None:
    table = [
        "Name       Proto      Table      State  Since         Info",
        "router1    BGP        ---        up     22:25:50.173  Established   ",
        "router2    BGP        ---        start  22:25:48.537  Active        Socket: Connection refused",
    ]
    peers = [BgpPeer("192.0.2.254", 64513), BgpPeer("203.0.113.1", 64512), BgpPeer("203.0.113.2", 64512)]
    assert bird.unestablished(table, peers) == [
        "no BGP session with 203.0.113.1: active socket: connection refused",
        "no BGP session with 203.0.113.2: not started",
    ]


def test_a_document_becomes_settings_and_back() -> None:
    data = {
        "enabled": True,
        "cidrs": ["192.0.2.64/28"],
        "l2-mode": True,
        "l2-interfaces": ["eth1"],
        "bgp-mode": True,
        "bgp-local-asn": 64512,
        "bgp-peers": [{"address": "192.0.2.1", "asn": 64513, "port": 179}],
    }
    config = Config.from_dict({"role": "worker", "features": {"load-balancer": data}})
    assert config.features.load_balancer.to_dict() == data
