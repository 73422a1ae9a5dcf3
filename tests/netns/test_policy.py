# SPDX-License-Identifier: Apache-2.0
"""What the compiled rules let pass: packets in network namespaces, judged by the words of the API's documentation."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations

import pytest

from firstboot.policy.compile import closed, compile_rules
from firstboot.policy.model import Policy, read_namespace, read_pod
from firstboot.policy.nft import Ruleset, whole

from .judge import NODE, OTHER, Chance, Cluster, Object, namespace, pod
from .lab import ARRIVAL_SECONDS, Lab, Packet
from .oddities import begins_sctp, connects, reaches_on_link, stray

GATEWAY = "10.1.0.1"
CART, SHOP, LOOSE, BANK = "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5"
FAR, FAR_BANK, WORLD = "10.1.1.2", "10.1.1.3", "198.51.100.9"
SIXTH = {
    **{GATEWAY: "fd00:1::1", CART: "fd00:1::2", SHOP: "fd00:1::3", LOOSE: "fd00:1::4", BANK: "fd00:1::5"},
    **{FAR: "fd00:3::2", FAR_BANK: "fd00:3::3", WORLD: "2001:db8::9"},
}
LOCAL = {"cart": CART, "shop": SHOP, "loose": LOOSE, "bank": BANK}
CLUSTER = Cluster(
    pods=[
        pod("cart", "shop", {"app": "cart", "tier": "front"}, CART, SIXTH[CART]),
        pod("shop", "shop", {"app": "shop", "tier": "back"}, SHOP, SIXTH[SHOP], web=81),
        pod("loose", "shop", {}, LOOSE, SIXTH[LOOSE]),
        pod("bank", "bank", {"app": "cart"}, BANK, SIXTH[BANK]),
        pod("far", "shop", {"app": "cart"}, FAR, SIXTH[FAR], node=OTHER),
        pod(
            "far-bank", "bank", {"app": "shop", "tier": "back"}, FAR_BANK, SIXTH[FAR_BANK], node=OTHER, web=81
        ),
    ],
    namespaces=[namespace("shop", {"team": "red", "tier": "front"}), namespace("bank", {"team": "blue"})],
)
KINDS = (("TCP", 80), ("TCP", 81), ("UDP", 80), ("ICMP", 0))
CHECKED, SENT = 150, 25
"""How many clusters made by chance nft looks at, and in how many of them packets are sent."""


@pytest.fixture(scope="module")
def lab(netns: None) -> Iterator[Lab]:
    """The node and everybody around it."""
    with Lab() as made:
        for name, address in LOCAL.items():
            made.pod(name, address, SIXTH[address])
        for address in (FAR, FAR_BANK, WORLD):
            made.beyond(address, SIXTH[address])
        yield made


@pytest.fixture(autouse=True)
def open_again(lab: Lab) -> Iterator[None]:
    """Each test begins without policies."""
    lab.load(compiled(CLUSTER))
    yield


def compiled(cluster: Cluster) -> Ruleset:
    """Return what the node NODE enforces."""
    return compile_rules(
        [Policy.from_dict(each) for each in cluster.policies],
        [found for each in cluster.pods if (found := read_pod(each))],
        {each["metadata"]["name"]: read_namespace(each) for each in cluster.namespaces},
        NODE,
    ).ruleset


def with_policies(*specs: Object, inside: str = "shop") -> Cluster:
    """Return the cluster with policies of a namespace."""
    policies = [
        {"metadata": {"namespace": inside, "name": f"p{number}"}, "spec": spec}
        for number, spec in enumerate(specs)
    ]
    return replace(CLUSTER, policies=policies)


def everything() -> list[Packet]:
    """Return packets between all pairs of whom at least one is a pod of the node."""
    local = {*LOCAL.values()}
    pairs = [pair for pair in permutations(SIXTH, 2) if local & {*pair}]
    pairs += [(SIXTH[source], SIXTH[target]) for source, target in pairs]
    return [Packet(*pair, protocol, port) for pair in pairs for protocol, port in KINDS]


def test_all_passes_without_policies(lab: Lab) -> None:
    """Otherwise what does not pass below would say nothing."""
    lost = [packet for packet, passes in lab.arrive(everything()).items() if not passes]
    assert lost == []


@pytest.mark.parametrize("seed", range(SENT))
def test_packets_pass_as_the_documentation_says(lab: Lab, seed: int) -> None:
    cluster = replace(CLUSTER, policies=Chance(random.Random(seed)).policies(4))
    lab.load(compiled(cluster))
    wanted = {packet: is_node(packet) or cluster.may(packet) for packet in everything()}
    found = lab.arrive(wanted)
    wrong = [(packet, wanted[packet]) for packet in wanted if found[packet] is not wanted[packet]]
    assert not wrong, f"{len(wrong)} wrong, as {wrong[:5]}\n{cluster.policies}"


def is_node(packet: Packet) -> bool:
    """Whether it is between the node and a pod of its own, which policies never forbid."""
    return bool({GATEWAY, SIXTH[GATEWAY]} & {packet.source, packet.target})


def test_nft_takes_all_that_is_compiled(lab: Lab) -> None:
    """Whole, and as what changes between two that have nothing to do with each other."""
    for seed in range(CHECKED):
        chance = Chance(random.Random(1000 + seed))
        ruleset = compiled(replace(CLUSTER, policies=chance.policies(12)))
        lab.nft(whole(ruleset), "-c", "-f", "-")
        lab.load(ruleset)
    changed = sorted(lab.nft("", "-s", "list", "table", "inet", "network-policy").splitlines())
    lab.nft(whole(ruleset))
    assert sorted(lab.nft("", "-s", "list", "table", "inet", "network-policy").splitlines()) == changed


DENY: Object = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_an_old_connection_ends_when_it_is_not_allowed_any_more(lab: Lab) -> None:
    """In both directions, and it goes on when it is allowed again, because nothing has been forgotten of it."""
    server = lab.socket(SHOP, socket.AF_INET, socket.SOCK_STREAM)
    server.bind((SHOP, 9000))
    server.listen()
    client = lab.socket(CART, socket.AF_INET, socket.SOCK_STREAM)
    client.settimeout(5)
    client.connect((SHOP, 9000))
    there, _ = server.accept()
    with server, client, there:
        for each in (client, there):
            each.settimeout(ARRIVAL_SECONDS)
        client.sendall(b"1")
        assert there.recv(1) == b"1"
        lab.load(compiled(with_policies({"podSelector": {"matchLabels": {"app": "shop"}}})))
        # From the one who was asked, too: as a new connection of his that would be allowed.
        there.sendall(b"2")
        client.sendall(b"3")
        for each in (client, there):
            with pytest.raises(TimeoutError):
                each.recv(1)
        lab.load(compiled(CLUSTER))
        for each in (client, there):
            each.settimeout(10)
        assert (client.recv(1), there.recv(1)) == (b"2", b"3")


SERVICE, OUTSIDE_PORT = "10.152.183.10", 30080
PROXY = f"""
table ip proxy {{
    chain arriving {{
        type nat hook prerouting priority dstnat;
        ip daddr {SERVICE} tcp dport 80 dnat to {SHOP}:80
        ip daddr 192.0.2.1 tcp dport {OUTSIDE_PORT} meta mark set 0x4000 dnat to {SHOP}:80
        ip daddr 10.152.183.11 tcp dport 80 dnat to {FAR}:80
    }}
    chain leaving {{
        type nat hook postrouting priority srcnat;
        meta mark 0x4000 masquerade
        ip saddr {SHOP} ip daddr {SHOP} masquerade
    }}
}}
"""
"""What kube-proxy does: for two Services, one of them with a port on the node that is open to the outside."""


def test_services_are_judged_by_the_pod_that_answers(lab: Lab) -> None:
    lab.nft(PROXY)
    policy = {
        "podSelector": {"matchLabels": {"app": "shop"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"app": "cart"}}}], "ports": [{"port": 80}]},
            {"from": [{"ipBlock": {"cidr": f"{WORLD}/32"}}]},
        ],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "cart"}}}]}],
    }
    lab.load(compiled(with_policies(policy)))
    try:
        found = {
            (source, target, port): connects(lab, source, target, port, answers)
            for source, target, port, answers in (
                (CART, SERVICE, 80, SHOP),
                (LOOSE, SERVICE, 80, SHOP),
                (SHOP, SERVICE, 80, SHOP),
                (SHOP, "10.152.183.11", 80, FAR),
                (WORLD, "192.0.2.1", OUTSIDE_PORT, SHOP),
                (FAR_BANK, "192.0.2.1", OUTSIDE_PORT, SHOP),
            )
        }
    finally:
        lab.nft("delete table ip proxy")
    assert found == {
        (CART, SERVICE, 80): True,
        (LOOSE, SERVICE, 80): False,
        # To itself.
        (SHOP, SERVICE, 80): True,
        (SHOP, "10.152.183.11", 80): True,
        # By the address that it came from, though the pod sees the node's.
        (WORLD, "192.0.2.1", OUTSIDE_PORT): True,
        (FAR_BANK, "192.0.2.1", OUTSIDE_PORT): False,
    }


def test_nothing_passes_before_it_is_known_what_may(lab: Lab) -> None:
    lab.load(closed())
    passed = [packet for packet, passes in lab.arrive(everything()).items() if passes]
    assert passed == [packet for packet in everything() if is_node(packet)]


def test_a_pod_without_a_known_address_is_isolated_if_a_policy_is_about_it(lab: Lab) -> None:
    """Others that start meanwhile have to wait as well, for nobody knows yet whose an address is."""
    starting = [
        replace_address(each) if each["metadata"]["name"] == "loose" else each for each in CLUSTER.pods
    ]
    cluster = replace(CLUSTER, pods=starting)
    packets = [Packet(CART, LOOSE, "TCP", 80), Packet(LOOSE, CART, "TCP", 80), Packet(CART, SHOP, "TCP", 80)]
    lab.load(compiled(cluster))
    assert list(lab.arrive(packets).values()) == [True, True, True]
    about = {"podSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}
    lab.load(compiled(replace(cluster, policies=with_policies(about).policies)))
    assert list(lab.arrive(packets).values()) == [False, True, True]
    lab.load(
        compiled(replace(cluster, policies=with_policies({**about, "policyTypes": ["Egress"]}).policies))
    )
    assert list(lab.arrive(packets).values()) == [True, False, True]


def replace_address(pod: Object) -> Object:
    """Return a pod that has no address yet."""
    return {**pod, "status": {"phase": "Pending"}}


def test_addresses_of_the_link_are_no_way_around(lab: Lab) -> None:
    """Pods of one bridge would reach each other by them without any router."""
    assert reaches_on_link(lab, "cart", "shop"), "the way is there"
    lab.load(compiled(with_policies(DENY)))
    assert not reaches_on_link(lab, "cart", "shop")


def test_what_belongs_to_no_connection_is_dropped(lab: Lab) -> None:
    """An answer that nobody has asked for would carry out as much as a question."""
    assert stray(lab, CART, SHOP)
    lab.load(compiled(with_policies({**DENY, "podSelector": {"matchLabels": {"app": "cart"}}})))
    assert not stray(lab, CART, SHOP)
    lab.load(compiled(with_policies({"podSelector": {"matchLabels": {"app": "shop"}}})))
    assert not stray(lab, CART, SHOP)


def test_the_third_protocol_is_known(lab: Lab) -> None:
    """The first packet of SCTP: this kernel has no sockets for it."""
    policy = {
        "podSelector": {"matchLabels": {"app": "shop"}},
        "ingress": [{"ports": [{"protocol": "SCTP", "port": 80}]}],
    }
    assert begins_sctp(lab, CART, SHOP, 81)
    lab.load(compiled(with_policies(policy)))
    assert [begins_sctp(lab, CART, SHOP, port) for port in (80, 81)] == [True, False]
