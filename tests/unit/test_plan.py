# SPDX-License-Identifier: Apache-2.0
"""What a document makes run: arguments, files, order."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot.config import Config
from firstboot.features import dns, network
from firstboot.pki.catalogue import catalogue
from firstboot.pki.verdict import Ledger
from firstboot.plan import UNITS, Memory, Wanted, missing_needs, plan, wanted
from firstboot.services import containerd, kubelet
from firstboot.services.model import Node, Service
from firstboot.steps.model import Machine, Step
from firstboot.steps.network import CniConfig
from firstboot.steps.objects import Applied


def node(**document: Any) -> Node:
    config = Config.from_dict({"role": "control-plane", **document})
    known = ("192.0.2.1", "192.0.2.2") if config.joins else ()
    return Node(config, "cp1", "192.0.2.10", nameservers=("192.0.2.53",), control_planes=known, card="eth0")


def goal(**document: Any) -> Wanted:
    return wanted(node(**document))


def service(unit: str, **document: Any) -> Service:
    return {service.unit: service for service in goal(**document).all_services}[unit]


def steps(**document: Any) -> tuple[Step, ...]:
    described = node(**document)
    certificates = catalogue(described.config, described.name, ["192.0.2.10/24"])
    return plan(
        described, wanted(described), certificates, Memory(Ledger(), Applied(), Path("membership.json"))
    )


WORKER: dict[str, Any] = {
    "role": "worker",
    "cluster": {"token": "0123456789abcdef0123456789abcdef", "endpoints": ["192.0.2.1"]},
}
DOCUMENTS: list[dict[str, Any]] = [
    {},
    WORKER,
    {"datastore": {"type": "etcd"}},
    {"cluster": {"virtual-address": "192.0.2.100"}},
    {"features": {"network": {"enabled": False}, "dns": {"enabled": False}}},
    {"time": {"servers": ["192.0.2.1"]}, "registries": {"mirrors": {"docker.io": ["https://m.example"]}}},
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_need_is_met_by_an_earlier_step(document: dict[str, Any]) -> None:
    assert missing_needs(steps(**document)) == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_names_of_steps_are_unique(document: dict[str, Any]) -> None:
    names = [step.name for step in steps(**document)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_unit_is_either_run_or_stopped(document: dict[str, Any]) -> None:
    names = {step.name for step in steps(**document)}
    for unit in UNITS:
        assert (f"unit:{unit}" in names) != (f"stopped:{unit}" in names)


def test_a_worker_runs_what_pods_need_and_a_balancer() -> None:
    units = {service.unit for service in goal(**WORKER).all_services}
    assert units == {"api-balancer", "containerd", "kubelet", "flanneld", "kube-proxy", "coredns"}
    [file] = service("api-balancer", **WORKER).files
    assert "server node-192.0.2.1 192.0.2.1:6443\n" in file.data.decode()
    assert "server node-192.0.2.2 192.0.2.2:6443\n" in file.data.decode()
    assert not [step for step in steps(**WORKER) if step.name.startswith("objects:")]


def partner(datastore: str, *peers: str) -> dict[str, Service]:
    known = replace(
        node(datastore={"type": datastore}), control_planes=("192.0.2.1", "192.0.2.10"), peers=peers
    )
    return {service.unit: service for service in wanted(known).all_services}


def test_a_datastore_with_partners_listens_to_them_with_certificates() -> None:
    alone = service("k8s-dqlite").arguments
    assert (alone["address"], "tls-ca" in alone) == ("127.0.0.1:9000", False)
    founder = partner("dqlite")["k8s-dqlite"].arguments
    assert (founder["address"], "tls-ca" in founder, "cluster" in founder) == ("192.0.2.10:9000", True, False)
    assert partner("dqlite", "192.0.2.1:9000")["k8s-dqlite"].arguments["cluster"] == "192.0.2.1:9000"
    assert (
        service("etcd", datastore={"type": "etcd"}).arguments["listen-peer-urls"] == "https://127.0.0.1:2380"
    )
    founder = partner("etcd")["etcd"].arguments
    assert (founder["listen-peer-urls"], founder["initial-cluster-state"]) == (
        "https://192.0.2.10:2380",
        "new",
    )
    joined = partner("etcd", "cp0=https://192.0.2.1:2380", "cp1=https://192.0.2.10:2380")["etcd"].arguments
    assert joined["initial-cluster"] == "cp0=https://192.0.2.1:2380,cp1=https://192.0.2.10:2380"
    assert joined["initial-cluster-state"] == "existing"


def test_a_member_of_dqlite_with_partners_says_in_which_zone_it_is() -> None:
    document = {"node": {"labels": {"topology.kubernetes.io/zone": "rack-2"}}}
    assert "failure-domain" not in service("k8s-dqlite", **document).arguments, "nobody else could vote"
    several = replace(node(**document), control_planes=("192.0.2.1", "192.0.2.10"))
    services = {each.unit: each for each in wanted(several).all_services}
    assert services["k8s-dqlite"].arguments["failure-domain"] == "rack-2"


def test_only_control_planes_that_are_several_elect() -> None:
    for unit in ("kube-controller-manager", "kube-scheduler"):
        assert service(unit).arguments["leader-elect"] == "false"
        assert partner("dqlite")[unit].arguments["leader-elect"] == "true"


@pytest.mark.parametrize(
    ("document", "runs", "rests"),
    [
        ({}, "k8s-dqlite", "etcd"),
        ({"datastore": {"type": "etcd"}}, "etcd", "k8s-dqlite"),
    ],
)
def test_the_document_chooses_the_datastore(document: dict[str, Any], runs: str, rests: str) -> None:
    units = {service.unit for service in goal(**document).all_services}
    assert runs in units
    assert rests not in units


@pytest.mark.parametrize(
    ("document", "endpoint"),
    [({}, "unix:///run/k8s-dqlite/kine.sock"), ({"datastore": {"type": "etcd"}}, "https://127.0.0.1:2379")],
)
def test_the_api_server_reaches_the_chosen_datastore(document: dict[str, Any], endpoint: str) -> None:
    assert service("kube-apiserver", **document).arguments["etcd-servers"] == endpoint


def test_extra_arguments_of_the_document_win() -> None:
    extra = {"kube-apiserver": {"extra-args": {"profiling": "true", "v": "4"}}}
    arguments = service("kube-apiserver", services=extra).arguments
    assert arguments["profiling"] == "true"
    assert arguments["v"] == "4"


def test_extra_admission_plugins_stand_beside_ours() -> None:
    extra = {"kube-apiserver": {"extra-args": {"enable-admission-plugins": "AlwaysPullImages"}}}
    assert (
        service("kube-apiserver", services=extra).arguments["enable-admission-plugins"]
        == "NodeRestriction,AlwaysPullImages"
    )


@pytest.mark.parametrize(
    ("document", "first"),
    [
        ({}, ("10.1.0.0/24",)),
        ({"cluster": {"pod-cidr": "10.8.0.0/14"}}, ("10.8.0.0/24",)),
        ({"cluster": {"pod-cidr": "10.1.2.0/25"}}, ("10.1.2.0/25",)),
        ({"cluster": {"pod-cidr": "10.1.0.0/16,fd00:1::/48"}}, ("10.1.0.0/24", "fd00:1::/64")),
        ({"services": {"kube-controller-manager": {"extra-args": {"node-cidr-mask-size": "26"}}}}, ()),
    ],
)
def test_the_first_pod_networks(document: dict[str, Any], first: tuple[str, ...]) -> None:
    assert network.first_pod_networks(node(**document)) == first
    assert ("pod-network" in {step.name for step in steps(**document)}) == bool(first)


def test_without_the_feature_nobody_assigns_a_pod_network() -> None:
    assert "pod-network" not in {step.name for step in steps(features={"network": {"enabled": False}})}


def test_extra_arguments_reach_services_of_features() -> None:
    extra = {"flanneld": {"extra-args": {"v": "10"}}}
    assert service("flanneld", services=extra).arguments["v"] == "10"


def test_a_changed_file_changes_the_revision() -> None:
    before = service("kubelet")
    after = service("kubelet", cluster={"domain": "example.test"})
    assert before.arguments == after.arguments
    assert before.revision != after.revision


def test_a_service_without_inputs_has_no_revision() -> None:
    assert service("containerd").revision is None


def test_the_environment_file_is_quoted_for_systemd() -> None:
    plain = service("containerd")
    quoted = replace(plain, environment={"HTTP_PROXY": 'http://u:a"b$c\\d@p.example'}).environment_file
    assert 'HTTP_PROXY="http://u:a\\"b\\$c\\\\d@p.example"' in quoted.data.decode().splitlines()
    assert quoted.mode == 0o600


def test_the_kubelet_gets_taints_and_labels() -> None:
    described = node(node={"taints": ["dedicated=db:NoSchedule", "gpu:NoExecute"], "labels": {"zone": "a"}})
    settings = json.loads(kubelet.configuration(described).data)
    assert settings["registerWithTaints"] == [
        {"key": "dedicated", "value": "db", "effect": "NoSchedule"},
        {"key": "gpu", "value": "", "effect": "NoExecute"},
    ]
    assert kubelet.service(described).arguments["node-labels"] == "zone=a"


def test_pods_ask_the_dns_address_of_the_document() -> None:
    described = node(features={"dns": {"service-ip": "10.152.183.53"}})
    assert json.loads(kubelet.configuration(described).data)["clusterDNS"] == ["10.152.183.53"]
    assert "bind 10.152.183.53" in dns.corefile(described)
    assert dns.kube_dns("10.152.183.53")["spec"]["clusterIP"] == "10.152.183.53"


def test_without_dns_pods_ask_nobody() -> None:
    described = node(features={"dns": {"enabled": False}})
    assert json.loads(kubelet.configuration(described).data)["clusterDNS"] == []


@pytest.mark.parametrize(
    ("document", "nameservers", "line"),
    [
        ({}, ("192.0.2.53",), "forward . 192.0.2.53"),
        ({"upstream-nameservers": ["198.51.100.1"]}, ("192.0.2.53",), "forward . 198.51.100.1"),
        ({}, (), None),
    ],
)
def test_other_names_go_upstream(
    document: dict[str, Any], nameservers: tuple[str, ...], line: str | None
) -> None:
    described = replace(node(features={"dns": document}), nameservers=nameservers)
    forwards = [text.strip() for text in dns.corefile(described).splitlines() if "forward" in text]
    assert forwards == ([line] if line else [])


def test_the_runtime_network_is_what_flannel_wrote() -> None:
    written = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.3.1/24\nFLANNEL_MTU=1450\n"
    bridge = json.loads(network.cni_config(network.Subnet.parse(written)).data)["plugins"][0]
    assert bridge["mtu"] == 1450
    assert bridge["ipam"]["ranges"] == [[{"subnet": "10.1.3.0/24"}]]


@pytest.mark.parametrize(("backend", "mtu"), [("vxlan", 1450), ("host-gw", 1500), ("wireguard", 1420)])
def test_a_first_node_knows_its_pod_network_before_flannel_has_written_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: str, mtu: int
) -> None:
    monkeypatch.setattr("firstboot.facts.mtu", lambda address: 1500)
    monkeypatch.setattr("firstboot.features.network.CNI_CONFIG", tmp_path / "basalt.conflist")
    monkeypatch.setattr("firstboot.steps.network.CNI_CONFIG", tmp_path / "basalt.conflist")
    monkeypatch.setattr("firstboot.steps.network.FLANNEL_SUBNET", tmp_path / "subnet.env")
    described = node(features={"network": {"backend": backend}})
    assert network.expected_subnet(described) == network.Subnet(("10.1.0.0/24",), mtu)
    step = CniConfig(lambda: network.expected_subnet(described))
    asyncio.run(step.apply(cast(Machine, None)))
    first = json.loads((tmp_path / "basalt.conflist").read_text())["plugins"][0]
    assert (first["mtu"], first["ipam"]["ranges"]) == (mtu, [[{"subnet": "10.1.0.0/24"}]])
    # What is there from before is not replaced by what is expected, but by what flannel writes.
    finding = asyncio.run(CniConfig(lambda: network.Subnet(("10.1.9.0/24",), mtu)).check(cast(Machine, None)))
    assert finding and finding.waits
    (tmp_path / "subnet.env").write_text("FLANNEL_SUBNET=10.1.3.1/24\nFLANNEL_MTU=1450\n")
    finding = asyncio.run(step.check(cast(Machine, None)))
    assert finding and finding.action == "write"


def test_the_clusters_own_traffic_goes_past_the_proxy() -> None:
    variables = containerd.proxy_environment(
        node(proxy={"https": "http://proxy.example:3128", "no-proxy": ["intern.example"]})
    )
    assert variables["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert "HTTP_PROXY" not in variables
    direct = variables["NO_PROXY"].split(",")
    assert {"intern.example", "10.1.0.0/16", "10.152.183.0/24", "192.0.2.10", ".cluster.local"} <= set(direct)


def test_mirrors_become_the_runtimes_files() -> None:
    (file,) = containerd.mirrors(
        node(registries={"mirrors": {"docker.io": ["https://a.example", "http://b.example:5000"]}}).config
    )
    assert file.path == Path("/etc/containerd/certs.d/docker.io/hosts.toml")
    text = file.data.decode()
    assert 'server = "https://registry-1.docker.io"' in text
    assert text.index("a.example") < text.index("b.example:5000")
