# SPDX-License-Identifier: Apache-2.0
"""How policies are read, whom selectors select, and what the kernel is told when something changes."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from firstboot.policy import nft
from firstboot.policy.compile import closed, compile_rules, merged, without
from firstboot.policy.model import Block, Pod, Policy, Port, Protocol, Rule, read_pod
from firstboot.policy.nft import Chain, Map, Ruleset, Set
from firstboot.policy.selectors import EVERYTHING, Selector

FRONT = {"app": "cart", "tier": "front"}


def expression(operator: str, *values: str, key: str = "app") -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ({}, {}, True),
        ({}, FRONT, True),
        ({"matchLabels": {"app": "cart"}}, FRONT, True),
        ({"matchLabels": {"app": "cart", "tier": "back"}}, FRONT, False),
        ({"matchLabels": {"app": "cart"}}, {}, False),
        (expression("In", "cart", "shop"), FRONT, True),
        (expression("In", "shop"), FRONT, False),
        (expression("In", "shop"), {}, False),
        (expression("NotIn", "shop"), FRONT, True),
        (expression("NotIn", "cart"), FRONT, False),
        (expression("NotIn", "cart"), {}, True),
        (expression("Exists"), FRONT, True),
        (expression("Exists"), {"tier": "front"}, False),
        (expression("DoesNotExist"), {"tier": "front"}, True),
        (expression("DoesNotExist"), FRONT, False),
        ({"matchLabels": {"tier": "front"}, **expression("NotIn", "cart")}, FRONT, False),
    ],
)
def test_whom_a_selector_selects(selector: dict[str, Any], labels: dict[str, str], expected: bool) -> None:
    assert Selector.from_dict(selector).matches(labels) is expected


def policy(**spec: Any) -> Policy:
    return Policy.from_dict({"metadata": {"namespace": "shop", "name": "p"}, "spec": spec})


ANY = Rule(None, None)


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ({}, (), None),
        ({"ingress": [{}]}, (ANY,), None),
        ({"egress": [{}]}, (), (ANY,)),
        ({"egress": []}, (), None),
        ({"policyTypes": ["Egress"]}, None, ()),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, None, ()),
        ({"policyTypes": ["Ingress"], "egress": [{}]}, (), None),
        ({"policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": [{}]}, (ANY,), (ANY,)),
        ({"ingress": [{"from": [], "ports": []}]}, (ANY,), None),
    ],
)
def test_which_directions_a_policy_isolates(spec: dict[str, Any], ingress: Any, egress: Any) -> None:
    found = policy(**spec)
    assert (found.ingress, found.egress, found.problems) == (ingress, egress, ())


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ({}, Port(Protocol.TCP)),
        ({"protocol": "UDP"}, Port(Protocol.UDP)),
        ({"protocol": "SCTP", "port": 80}, Port(Protocol.SCTP, 80, 80)),
        ({"port": 80, "endPort": 90}, Port(Protocol.TCP, 80, 90)),
        ({"port": "web"}, Port(Protocol.TCP, name="web")),
    ],
)
def test_how_ports_are_read(port: dict[str, Any], expected: Port) -> None:
    assert policy(ingress=[{"ports": [port]}]).ingress == (Rule(None, (expected,)),)


NOTHING = Rule((), None)


@pytest.mark.parametrize(
    ("spec", "ingress", "problem"),
    [
        (
            {"ingress": [{"from": [{"serviceSelector": {}}]}]},
            (NOTHING,),
            "ingress[0].from[0]: no kind of peer that is known: serviceSelector",
        ),
        (
            {"ingress": [{"from": [{}]}]},
            (NOTHING,),
            "ingress[0].from[0]: no kind of peer that is known: it is empty",
        ),
        (
            {"ingress": [{"from": [{"podSelector": expression("Like", "c*")}]}]},
            (NOTHING,),
            "ingress[0].from[0]: 'Like' is not a valid Operator",
        ),
        (
            {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]},
            (NOTHING,),
            "ingress[0].from[0]: '10.0.0.0/33' does not appear to be an IPv4 or IPv6 network",
        ),
        (
            {"ingress": [{"ports": [{"protocol": "DCCP"}]}]},
            (Rule(None, ()),),
            "ingress[0].ports[0]: 'DCCP' is not a valid Protocol",
        ),
        ({"policyTypes": ["Ingress", "Both"]}, (), "policyTypes: 'Both' is not a valid Direction"),
    ],
)
def test_what_is_not_understood_lets_nothing_pass(spec: dict[str, Any], ingress: Any, problem: str) -> None:
    found = policy(**spec)
    assert found.ingress == ingress
    assert found.problems == (problem,)


def test_a_selector_of_pods_that_is_not_understood_selects_all() -> None:
    found = policy(podSelector=expression("Like", "c*"))
    assert found.pods == EVERYTHING and found.problems == ("podSelector: 'Like' is not a valid Operator",)


def obj(name: str = "a", *addresses: str, **spec: Any) -> dict[str, Any]:
    status = {"phase": "Running", "podIPs": [{"ip": each} for each in addresses]}
    return {
        "metadata": {"namespace": "shop", "name": name, "labels": {"app": name}},
        "spec": {"nodeName": "node-1", "containers": [{"name": name}], **spec},
        "status": status,
    }


def test_pods_that_no_policy_is_about() -> None:
    assert read_pod(obj(hostNetwork=True)) is None
    for phase in ("Succeeded", "Failed"):
        assert read_pod({**obj(), "status": {"phase": phase}}) is None
    assert read_pod({**obj(), "status": {}}) == Pod("shop", "a", "node-1", {"app": "a"})


def test_ports_with_names() -> None:
    """Those of containers that run before the others and end do not listen later."""
    first = {"name": "web", "containerPort": 80}
    found = read_pod(
        obj(
            containers=[
                {
                    "ports": [
                        first,
                        {"containerPort": 81},
                        {"name": "dns", "protocol": "UDP", "containerPort": 53},
                    ]
                },
                {"ports": [{"name": "web", "containerPort": 82}]},
            ],
            initContainers=[
                {"ports": [{"name": "gone", "containerPort": 1}]},
                {"restartPolicy": "Always", "ports": [{"name": "beside", "containerPort": 2}]},
            ],
        )
    )
    assert found and found.ports == {
        ("web", Protocol.TCP): 80,
        ("dns", Protocol.UDP): 53,
        ("beside", Protocol.TCP): 2,
    }


@pytest.mark.parametrize(
    ("network", "excepted", "expected"),
    [
        ("10.0.0.0/30", [], ["10.0.0.0/30"]),
        ("10.0.0.0/30", ["10.0.0.1/32"], ["10.0.0.0/32", "10.0.0.2/31"]),
        ("10.0.0.0/30", ["10.0.0.0/31", "10.0.0.2/32"], ["10.0.0.3/32"]),
        ("10.0.0.0/30", ["10.0.0.0/31", "10.0.0.0/32"], ["10.0.0.2/31"]),
        ("10.0.0.0/30", ["10.0.0.0/29"], []),
        ("10.0.0.0/30", ["10.0.0.0/30"], []),
        ("10.0.0.0/30", ["10.9.0.0/30", "fd00::/8"], ["10.0.0.0/30"]),
        ("fd00::/126", ["fd00::/127"], ["fd00::2/127"]),
    ],
)
def test_a_network_without_others(network: str, excepted: list[str], expected: list[str]) -> None:
    found = without(ip_network(network), [ip_network(each) for each in excepted])
    assert [str(each) for each in found] == expected


def test_ranges_of_ports_are_put_together() -> None:
    assert merged([(80, 80), (443, 443), (75, 90), (91, 95), (90, 92)]) == ((75, 95), (443, 443))


def read(*objects: dict[str, Any]) -> list[Pod]:
    return [found for each in objects if (found := read_pod(each))]


def test_pods_with_the_same_policies_share_rules() -> None:
    allow = {"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}
    policies = [
        policy(podSelector={}, ingress=[allow]),
        Policy.from_dict(
            {"metadata": {"namespace": "shop", "name": "q"}, "spec": {"podSelector": {}, "ingress": [allow]}}
        ),
    ]
    pods = read(obj("a", "10.1.0.2"), obj("b", "10.1.0.3"), obj("far", "10.1.1.2", nodeName="node-2"))
    found = compile_rules(policies, pods, {"shop": {}}, "node-1")
    assert (found.isolated, found.pending) == (2, ())
    verdicts = found.ruleset.maps["ingress4"].elements
    assert set(verdicts) == {"10.1.0.2", "10.1.0.3"} and len(set(verdicts.values())) == 1
    shared = [name for name in found.ruleset.sets if name.startswith("pods4-")]
    assert len(shared) == 1 and found.ruleset.sets[shared[0]].elements == {"10.1.0.2"}
    one, two = (found.ruleset.chains[f"ingress_shop/{name}"] for name in "pq")
    assert one == two == Chain((f"ct original ip saddr @{shared[0]} accept",))


def test_policies_for_pods_of_other_nodes_cost_nothing_here() -> None:
    pods = read(obj("a", "10.1.0.2", nodeName="node-2"))
    found = compile_rules([policy(podSelector={})], pods, {"shop": {}}, "node-1")
    assert found.isolated == 0 and found.ruleset == compile_rules([], pods, {}, "node-1").ruleset
    assert not any(
        chain.rules for name, chain in found.ruleset.chains.items() if not name.startswith("stray")
    )


def test_a_pod_whose_address_is_not_known_closes_what_policies_are_about() -> None:
    pods = read(obj("a"), obj("b", "10.1.0.3"))
    found = compile_rules([policy(podSelector={"matchLabels": {"app": "a"}})], pods, {"shop": {}}, "node-1")
    assert (found.isolated, found.pending) == (1, ("shop/a",))
    chains = found.ruleset.chains
    assert chains["to-pods"] == closed().chains["to-pods"] and chains["from-pods"].rules == ()
    other = compile_rules([policy(podSelector={"matchLabels": {"app": "b"}})], pods, {"shop": {}}, "node-1")
    assert (
        other.pending == () and len(other.ruleset.chains["to-pods"].rules) == len(chains["to-pods"].rules) - 2
    )


def test_names_that_are_too_long_stay_apart() -> None:
    policies = [
        Policy.from_dict(
            {"metadata": {"namespace": "shop", "name": "x" * 250 + end}, "spec": {"podSelector": {}}}
        )
        for end in ("1", "2")
    ]
    found = compile_rules(policies, read(obj("a", "10.1.0.2")), {"shop": {}}, "node-1")
    names = [name for name in found.ruleset.chains if name.startswith("ingress_shop/x")]
    assert len(names) == 2 and all(len(name) < 200 for name in names)


def test_a_block_for_another_family_is_in_no_rule_with_named_ports() -> None:
    block = Block.from_dict({"cidr": "fd00::/64"})
    assert block.network.version == 6
    rule = {"from": [{"ipBlock": {"cidr": "fd00::/64"}}], "ports": [{"port": "web"}]}
    pods = read(obj("a", "10.1.0.2", containers=[{"ports": [{"name": "web", "containerPort": 80}]}]))
    found = compile_rules([policy(podSelector={}, ingress=[rule])], pods, {"shop": {}}, "node-1")
    assert found.ruleset.chains["ingress_shop/p"].rules == ()


OLD = Ruleset(
    sets={"same": Set("ipv4_addr", frozenset({"10.1.0.2"})), "gone": Set("ipv4_addr", frozenset())},
    maps={"to": Map("ipv4_addr", {"10.1.0.2": "jump one", "10.1.0.3": "jump two"})},
    chains={
        "one": Chain(("drop",)),
        "two": Chain(("jump one",)),
        "in": Chain((), "type filter hook forward"),
    },
)
NEW = Ruleset(
    sets={
        "same": Set("ipv4_addr", frozenset({"10.1.0.9"})),
        "new": Set("ipv4_addr", frozenset({"1.1.1.1/32"}), True),
    },
    maps={"to": Map("ipv4_addr", {"10.1.0.2": "jump three"})},
    chains={
        "one": Chain(("accept",)),
        "three": Chain(("drop",)),
        "in": Chain((), "type filter hook forward"),
    },
)


def test_only_what_changes_is_told() -> None:
    table = nft.TABLE
    assert nft.changes(OLD, NEW).splitlines() == [
        f"add set {table} new {{ type ipv4_addr; flags interval; }}",
        f"add chain {table} three",
        f"delete element {table} same {{ 10.1.0.2 }}",
        f"add element {table} same {{ 10.1.0.9 }}",
        f"add element {table} new {{ 1.1.1.1/32 }}",
        f"flush chain {table} one",
        f"add rule {table} one accept",
        f"add rule {table} three drop",
        f"delete element {table} to {{ 10.1.0.2, 10.1.0.3 }}",
        f"add element {table} to {{ 10.1.0.2 : jump three }}",
        f"flush chain {table} two",
        f"delete chain {table} two",
        f"delete set {table} gone",
    ]
    assert nft.changes(NEW, NEW) == ""


def test_the_whole_replaces_whatever_there_was() -> None:
    text = nft.whole(NEW).splitlines()
    assert text[:3] == [f"add table {nft.TABLE}", f"delete table {nft.TABLE}", f"add table {nft.TABLE}"]
    assert f"add chain {nft.TABLE} in {{ type filter hook forward }}" in text
