# SPDX-License-Identifier: Apache-2.0
"""Clusters with IPv4 and IPv6 networks: what a document may say, what a node needs, what its services are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firstboot import values
from firstboot.codes import Code
from firstboot.config import Config, NetworkBackend
from firstboot.facts import Facts
from firstboot.features import dns, network
from firstboot.intake import ADDRESS_PATIENCE, FACTS_AGE, Intake
from firstboot.plan import wanted
from firstboot.rules.model import POD_CIDR, PREFIXES
from firstboot.services import containerd
from firstboot.services.model import Ipv6, Node, Service
from firstboot.sources import FILE
from firstboot.validate import check_data, check_document, check_facts

PODS, SERVICES = "10.1.0.0/16,fd01::/48", "10.152.183.0/24,fd98::/112"
BOTH = {"pod-cidr": PODS, "service-cidr": SERVICES}
DOCUMENT: dict[str, Any] = {"role": "control-plane", "cluster": BOTH}
CARD = Ipv6("fd00::10", "eth0", 1500)
MASK = {"kube-controller-manager": {"extra-args": {"node-cidr-mask-size": "25"}}}


@pytest.mark.parametrize(
    "cluster",
    [
        BOTH,
        {"pod-cidr": "10.1.0.0/24,fd01::/64", "service-cidr": "10.2.0.0/16,fd98::/108"},
        {"pod-cidr": "10.0.0.0/8,2001:db8:1::/48", "service-cidr": "172.16.0.0/12,fd98::/120"},
    ],
)
def test_good_networks(cluster: dict[str, str]) -> None:
    config = Config.from_dict(check_data({"role": "control-plane", "cluster": cluster}))
    assert config.cluster.is_dual_stack
    assert ",".join(config.cluster.pod_networks) == cluster["pod-cidr"]
    assert ",".join(config.cluster.service_networks) == cluster["service-cidr"]


def test_of_one_version_there_is_one_network() -> None:
    cluster = Config.from_dict({"role": "control-plane"}).cluster
    assert (cluster.pod_networks, cluster.is_dual_stack) == (("10.1.0.0/16",), False)


def test_api_and_dns_have_addresses_of_ipv4() -> None:
    config = Config.from_dict(DOCUMENT)
    assert config.cluster.api_service_ip == "10.152.183.1"
    assert config.features.dns.service_ip == "10.152.183.10"


@pytest.mark.parametrize(
    ("document", "code", "path", "words"),
    [
        (
            {"cluster": BOTH, "services": MASK},
            *(Code.BAD_VALUE, "services.kube-controller-manager.extra-args.node-cidr-mask-size", ["-ipv6"]),
        ),
        # one of the two keys
        ({"cluster": {"pod-cidr": PODS}}, Code.WRONG_FAMILY, "cluster.pod-cidr", ["its default", SERVICES]),
        (
            {"cluster": {"service-cidr": SERVICES}},
            *(Code.WRONG_FAMILY, "cluster.service-cidr", ["`pod-cidr` 10.1.0.0/16, its default", PODS]),
        ),
        (
            {"cluster": {**BOTH, "service-cidr": "10.9.0.0/24"}},
            *(Code.WRONG_FAMILY, "cluster.service-cidr", ["10.9.0.0/24,fd98::/112", "take fd01::/48 out"]),
        ),
        # order and number
        (
            {"cluster": {**BOTH, "pod-cidr": "fd01::/48,10.1.0.0/16"}},
            *(Code.WRONG_FAMILY, "cluster.pod-cidr", ["fd01::/48, the first network, is IPv6"]),
        ),
        (
            {"cluster": {**BOTH, "pod-cidr": "10.1.0.0/16,10.2.0.0/16"}},
            *(Code.WRONG_FAMILY, "cluster.pod-cidr", ["10.2.0.0/16, the second network, is IPv4"]),
        ),
        (
            {"cluster": {**BOTH, "pod-cidr": f"{PODS},fd02::/48"}},
            *(Code.BAD_NETWORK, "cluster.pod-cidr", ["there are 3 networks"]),
        ),
        ({"cluster": {**BOTH, "pod-cidr": "10.1.0.0/16,"}}, Code.BAD_NETWORK, "cluster.pod-cidr", ["CIDR"]),
        (
            {"cluster": {**BOTH, "pod-cidr": "10.1.0.0/16, fd01::/48"}},
            *(Code.BAD_NETWORK, "cluster.pod-cidr", ["blank", "a comma and nothing else"]),
        ),
        # sizes
        (
            {"cluster": {**BOTH, "pod-cidr": "10.1.0.0/16,fd01:0:1::/47"}},
            *(Code.HOST_BITS, "cluster.pod-cidr", ["Write `fd01::/47`"]),
        ),
        (
            {"cluster": {**BOTH, "pod-cidr": "10.1.0.0/16,fd00::/47"}},
            *(Code.NETWORK_SIZE, "cluster.pod-cidr", ["fd00::/47 is too large", "48 to 64"]),
        ),
        (
            {"cluster": {**BOTH, "pod-cidr": "10.1.0.0/16,fd01::/65"}},
            *(Code.NETWORK_SIZE, "cluster.pod-cidr", ["small", "48 to 64"]),
        ),
        (
            {"cluster": {**BOTH, "service-cidr": "10.152.183.0/24,fd98::/107"}},
            *(Code.NETWORK_SIZE, "cluster.service-cidr", ["large", "108 to 120"]),
        ),
        (
            {"cluster": {**BOTH, "service-cidr": "10.152.183.0/24,fd98::/121"}},
            *(Code.NETWORK_SIZE, "cluster.service-cidr", ["small"]),
        ),
        (
            {"cluster": {**BOTH, "pod-cidr": "10.1.0.0/16,fd01::"}},
            *(Code.BAD_NETWORK, "cluster.pod-cidr", ["no prefix length", "`fd01::/48`"]),
        ),
        # spelling and meaning
        (
            {"cluster": {**BOTH, "pod-cidr": "10.1.0.0/16,FD01:0::/48"}},
            *(Code.BAD_NETWORK, "cluster.pod-cidr", ["written otherwise", "Write `fd01::/48`"]),
        ),
        (
            {"cluster": {**BOTH, "pod-cidr": "10.1.0.0/16,fe80::/64"}},
            *(Code.BAD_NETWORK, "cluster.pod-cidr", ["special"]),
        ),
        (
            {"cluster": {**BOTH, "pod-cidr": "10.1.0.0/16,ff02::/48"}},
            *(Code.BAD_NETWORK, "cluster.pod-cidr", ["special"]),
        ),
        (
            {"cluster": {**BOTH, "service-cidr": "10.152.183.0/24,::ffff:10.0.0.0/120"}},
            *(Code.BAD_NETWORK, "cluster.service-cidr", []),
        ),
        # together
        (
            {"cluster": {**BOTH, "service-cidr": "10.152.183.0/24,fd01:0:0:7::/112"}},
            *(Code.OVERLAP, "cluster.pod-cidr", ["fd01::/48", "fd01:0:0:7::/112"]),
        ),
        (
            {"cluster": {**BOTH, "pod-cidr": "10.152.0.0/16,fd01::/48"}},
            *(Code.OVERLAP, "cluster.pod-cidr", ["10.152.183.0/24"]),
        ),
        # addresses
        ({"node": {"ipv6": "192.0.2.1"}}, Code.WRONG_FAMILY, "node.ipv6", ["192.0.2.1 is IPv4"]),
        ({"node": {"ipv6": "fd00::x"}}, Code.BAD_ADDRESS, "node.ipv6", ["fd00::10"]),
        ({"node": {"ipv6": "fd00::1%eth0"}}, Code.BAD_ADDRESS, "node.ipv6", []),
        ({"node": {"ipv6": "FD00::1"}}, Code.BAD_ADDRESS, "node.ipv6", ["Write `fd00::1`"]),
        ({"node": {"ipv6": "fe80::1"}}, Code.BAD_ADDRESS, "node.ipv6", ["reached"]),
        ({"node": {"ipv6": "::1"}}, Code.BAD_ADDRESS, "node.ipv6", ["reached"]),
        (
            {"cluster": BOTH, "node": {"ipv6": "fd01::9"}},
            *(Code.INSIDE_NETWORK, "node.ipv6", ["`pod-cidr` fd01::/48"]),
        ),
        (
            {"cluster": BOTH, "node": {"ipv6": "fd98::9"}},
            *(Code.INSIDE_NETWORK, "node.ipv6", ["`service-cidr` fd98::/112"]),
        ),
        (
            {"cluster": BOTH, "features": {"dns": {"service-ip": "fd98::a"}}},
            *(Code.WRONG_FAMILY, "features.dns.service-ip", ["IPv4"]),
        ),
        (
            {"cluster": BOTH, "features": {"load-balancer": {"cidrs": ["fd01::/64"]}}},
            *(Code.OVERLAP, "features.load-balancer.cidrs[0]", ["`pod-cidr` fd01::/48"]),
        ),
        (
            {"node": {"ipv6": "fd00::10"}, "features": {"load-balancer": {"cidrs": ["fd00::/120"]}}},
            *(Code.OVERLAP, "features.load-balancer.cidrs[0]", ["`node.ipv6`"]),
        ),
        (
            {"services": {"flanneld": {"extra-args": {"public-ipv6": "fd00::1"}}}},
            *(Code.OWNED_ARGUMENT, "services.flanneld.extra-args.public-ipv6", ["`node.ipv6`"]),
        ),
    ],
)
def test_mistakes(document: dict[str, Any], code: Code, path: str, words: list[str]) -> None:
    found = check_document({"role": "control-plane", **document})
    assert [(each.code, each.path) for each in found] == [(code, f"basalt.{path}")]
    for word in words:
        assert word in f"{found[0].found}. {found[0].remedy}", found[0]


def test_what_the_check_says_is_right_can_be_read() -> None:
    assert values.networks_problem(PODS, PREFIXES[POD_CIDR]) is None
    assert values.networks_problem("10.1.0.0/16", PREFIXES[POD_CIDR]) is None


FACTS = Facts(
    hostname="cp1",
    addresses={
        "eth0": ("192.0.2.10/24", "2001:db8::7/64", "fd00::20/64", "fd00::10/64"),
        "eth1": ("198.51.100.7/24", "fd0e::7/64"),
        "eth2": ("203.0.113.7/24",),
    },
    default_address="192.0.2.10",
    memory=4 * 1024**3,
    machine_id="0123456789abcdef",
    mtus={"eth0": 1500, "eth1": 9000, "eth2": 1500},
)


@pytest.mark.parametrize(
    ("beside", "expected"),
    [("192.0.2.10", "fd00::10"), ("198.51.100.7", "fd0e::7"), ("203.0.113.7", None), ("192.0.2.99", None)],
)
def test_the_address_of_ipv6_is_beside_that_of_ipv4(beside: str, expected: str | None) -> None:
    assert FACTS.ipv6_beside(beside) == expected


def test_a_public_address_does_where_there_is_no_other() -> None:
    facts = replace(FACTS, addresses={"eth0": ("192.0.2.10/24", "2001:db8::9/64", "2001:db8::7/64")})
    assert facts.ipv6_beside("192.0.2.10") == "2001:db8::7"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({}, []),
        ({"node": {"ip": "203.0.113.7"}}, [(Code.NO_ADDRESS, "node.ipv6", "eth2 has no IPv6 address yet")]),
        ({"node": {"ipv6": "2001:db8::7"}}, []),
        (
            {"node": {"ipv6": "2001:db8::8"}},
            [(Code.NOT_ON_NODE, "node.ipv6", "no interface has 2001:db8::8; the nodes' packets go by eth0")],
        ),
        ({"node": {"ipv6": "fd0e::7"}}, [(Code.NOT_ON_NODE, "node.ipv6", "eth1 has fd0e::7")]),
        # Nobody needs it.
        ({"cluster": {}, "node": {"ip": "203.0.113.7"}}, []),
        ({"cluster": {}, "node": {"ipv6": "fd0e::7"}}, []),
        (
            {"cluster": {**BOTH, "pod-cidr": "10.1.0.0/16,2001:db8::/48"}},
            [(Code.NETWORK_TAKEN, "cluster.pod-cidr", "2001:db8::/64 on eth0")],
        ),
        (
            {"cluster": {**BOTH, "service-cidr": "10.152.183.0/24,fd00::/112"}},
            [(Code.NETWORK_TAKEN, "cluster.service-cidr", "fd00::/64 on eth0")],
        ),
    ],
)
def test_what_the_machine_needs(document: dict[str, Any], expected: list[tuple[Code, str, str]]) -> None:
    found = check_facts(Config.from_dict({**DOCUMENT, **document}), FACTS)
    assert [(each.code, each.path) for each in found] == [
        (code, f"basalt.{path}") for code, path, _ in expected
    ]
    for failure, (_, _, words) in zip(found, expected, strict=True):
        assert words in failure.found


def test_a_node_goes_on_when_it_gets_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, facts = [0.0], [replace(FACTS, addresses={"eth0": ("192.0.2.10/24",)})]
    monkeypatch.setattr(Facts, "gather", lambda root: facts[0])
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    for folder in ("etc/basalt", "var/lib/basalt"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / FILE).write_text(json.dumps({"basalt": DOCUMENT}))
    intake = Intake(tmp_path, lambda: now[0])
    taken = intake.look()
    assert (taken.node, taken.pending, taken.failures) == (None, True, ()), "it may come at any moment"
    now[0] += ADDRESS_PATIENCE + 1
    [failure] = intake.look().failures
    assert (failure.code, failure.path) == (Code.NO_ADDRESS, "basalt.node.ipv6")
    facts[0] = FACTS
    taken = intake.look()
    assert taken.node is not None
    assert (taken.node.ipv6, taken.node.ips) == (CARD, ("192.0.2.10", "fd00::10"))
    assert taken.addresses[:3] == ("192.0.2.10", "fd00::10", "2001:db8::7"), "those that are used come first"
    # Losing it does not take a running node down.
    facts[0] = replace(FACTS, addresses={"eth0": ("192.0.2.10/24",)})
    now[0] += FACTS_AGE + 1
    lost = intake.look()
    assert lost.node == taken.node
    assert [each.path for each in lost.failures] == ["basalt.node.ipv6"]


def node(backend: NetworkBackend = NetworkBackend.VXLAN, ipv6: Ipv6 | None = CARD) -> Node:
    cluster = BOTH if ipv6 else {}
    features = {"network": {"backend": backend.value}}
    config = Config.from_dict({"role": "control-plane", "cluster": cluster, "features": features})
    return Node(config, "cp1", "192.0.2.10", ipv6=ipv6)


def service(unit: str, described: Node) -> Service:
    return {each.unit: each for each in wanted(described).all_services}[unit]


def settings(name: Path, described: Service) -> dict[str, Any]:
    [file] = (file for file in described.files if file.path == name)
    read: dict[str, Any] = json.loads(file.data)
    return read


def test_components_are_told_both_networks() -> None:
    described = node()
    assert service("kube-apiserver", described).arguments["service-cluster-ip-range"] == SERVICES
    assert service("kube-apiserver", described).arguments["advertise-address"] == "192.0.2.10"
    manager = service("kube-controller-manager", described).arguments
    assert (manager["cluster-cidr"], manager["service-cluster-ip-range"]) == (PODS, SERVICES)
    assert service("kubelet", described).arguments["node-ip"] == "192.0.2.10,fd00::10"
    assert settings(network.PROXY_CONFIG, service("kube-proxy", described))["clusterCIDR"] == PODS
    allowed = "allow net 10.1.0.0/16 fd01::/48 10.152.183.10 192.0.2.10 fd00::10 127.0.0.0/8\n"
    assert allowed in dns.corefile(described)


def test_without_ipv6_components_are_told_nothing_of_it() -> None:
    described = node(ipv6=None)
    for unit in ("kube-apiserver", "kube-controller-manager", "kubelet", "flanneld", "kube-proxy"):
        told = service(unit, described)
        assert "::" not in json.dumps(dict(told.arguments)), unit
        assert "IPv6" not in "".join(file.data.decode() for file in told.files), unit


@pytest.mark.parametrize(("ipv6", "mode"), [(None, "separate"), (CARD, "auto")])
def test_one_interface_of_wireguard_is_for_both_versions_where_there_are_two(
    ipv6: Ipv6 | None, mode: str
) -> None:
    written = settings(network.FLANNEL_CONFIG, service("flanneld", node(NetworkBackend.WIREGUARD, ipv6=ipv6)))
    assert written["Backend"]["Mode"] == mode


def test_both_networks_go_past_the_proxy() -> None:
    described = node()
    proxy = {"proxy": {"http": "http://proxy.example:3128"}}
    described = replace(described, config=Config.from_dict({**DOCUMENT, **proxy}))
    direct = containerd.proxy_environment(described)["NO_PROXY"].split(",")
    assert {"fd01::/48", "fd98::/112", "fd00::10", "10.1.0.0/16"} <= set(direct)


@pytest.mark.parametrize(
    ("backend", "told", "mtu"),
    [
        (NetworkBackend.VXLAN, 1480, 1430),
        (NetworkBackend.HOST_GW, 1500, 1500),
        (NetworkBackend.WIREGUARD, 1500, 1420),
    ],
)
def test_packets_of_pods_fit_in_those_of_ipv6_between_nodes(
    monkeypatch: pytest.MonkeyPatch, backend: NetworkBackend, told: int, mtu: int
) -> None:
    monkeypatch.setattr("firstboot.facts.mtu", lambda address: 1500)
    described = node(backend)
    flannel = service("flanneld", described)
    assert flannel.arguments["public-ipv6"] == "fd00::10"
    written = settings(network.FLANNEL_CONFIG, flannel)
    assert (written["EnableIPv6"], written["Network"], written["IPv6Network"]) == (
        *(True, "10.1.0.0/16", "fd01::/48"),
    )
    assert written["Backend"]["MTU"] == told
    # What flannel then writes is what the first pods get.
    assert network.expected_subnet(described) == network.Subnet(("10.1.0.0/24", "fd01::/64"), mtu)


def test_pods_get_an_address_of_each_network() -> None:
    written = (
        "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.3.1/24\n"
        "FLANNEL_IPV6_NETWORK=fd01::/48\nFLANNEL_IPV6_SUBNET=fd01:0:0:3::1/64\n"
        "FLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n"
    )
    subnet = network.Subnet.parse(written)
    assert subnet == network.Subnet(("10.1.3.0/24", "fd01:0:0:3::/64"), 1430)
    bridge = json.loads(network.cni_config(subnet).data)["plugins"][0]
    assert bridge["ipam"]["ranges"] == [[{"subnet": "10.1.3.0/24"}], [{"subnet": "fd01:0:0:3::/64"}]]


def test_the_node_itself_has_a_way_to_services() -> None:
    one, both = (network.service_routes(node(ipv6=each)) for each in (None, CARD))
    assert one == "route replace 10.152.183.0/24 dev lo src 192.0.2.10 proto 98\n"
    assert both == f"{one}route replace fd98::/112 dev eth0 src fd00::10 proto 98\n"


def test_the_unit_takes_away_the_routes_that_it_makes() -> None:
    unit = Path(__file__).parents[2] / "overlays/usr/lib/systemd/system/kube-proxy.service"
    lines = unit.read_text().splitlines()
    assert f"ExecStartPre=/usr/sbin/ip -batch {network.PROXY_ROUTES}" in lines
    for version in (4, 6):
        assert f"ExecStopPost=-/usr/sbin/ip -{version} route flush proto {network.ROUTES_PROTOCOL}" in lines
