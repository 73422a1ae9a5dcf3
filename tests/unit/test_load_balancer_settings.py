# SPDX-License-Identifier: Apache-2.0
"""Settings of the load balancer: mistakes in them, what a node makes of them, and how they are changed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot import observe
from firstboot.cluster.steward import Steward
from firstboot.codes import Code
from firstboot.config import Config
from firstboot.facts import Facts
from firstboot.failure import DocumentError, Refused
from firstboot.features import loadbalancer
from firstboot.kube import KubeError, object_path
from firstboot.loadbalancer.settings import Settings
from firstboot.pki.catalogue import catalogue
from firstboot.plan import Memory, missing_needs, plan, wanted
from firstboot.probes import ToldProbe
from firstboot.report.status import Part, State
from firstboot.services.model import Node
from firstboot.steps.addresses import Released
from firstboot.steps.model import Machine
from firstboot.steps.objects import Applied
from firstboot.systemd import Unit
from firstboot.validate import check_data, check_facts
from tests.unit.test_cluster_settings import FIRST, Api

HERE = "basalt.features.load-balancer"
GOOD: dict[str, Any] = {"enabled": True, "cidrs": ["192.0.2.64/28"], "l2-mode": True}
BGP: dict[str, Any] = {**GOOD, "l2-mode": False, "bgp-mode": True, "bgp-local-asn": 64512}
PEER = {"address": "192.0.2.1", "asn": 64513}


def document(settings: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "control-plane", "features": {"load-balancer": settings}, **more}


@pytest.mark.parametrize(
    "settings",
    [
        GOOD,
        {"cidrs": [], "l2-mode": False},
        {**BGP, "bgp-peers": [PEER, {**PEER, "port": 1790}]},
        {**GOOD, "cidrs": ["192.0.2.64-192.0.2.70", "192.0.2.71-192.0.2.80", "2001:db8::/120"]},
        {**GOOD, "l2-interfaces": ["enp1s0", "br-lan.7"]},
    ],
)
def test_what_is_right(settings: dict[str, Any]) -> None:
    check_data(document(settings))


@pytest.mark.parametrize(
    ("settings", "more", "code", "path", "words"),
    [
        ({**GOOD, "cidrs": []}, {}, Code.MISSING_KEY, "cidrs", ["no address to give", "192.0.2.64/28"]),
        ({**GOOD, "l2-mode": False}, {}, Code.MISSING_KEY, "l2-mode", ["`bgp-mode: true`"]),
        ({**GOOD, "l2-mode": "yes"}, {}, Code.WRONG_TYPE, "l2-mode", ["true or false"]),
        ({**GOOD, "cidrs": ["192.0.2.65/28"]}, {}, Code.BAD_NETWORK, "cidrs[0]", ["`192.0.2.64/28`"]),
        ({**GOOD, "cidrs": ["192.0.2.9-2"]}, {}, Code.BAD_NETWORK, "cidrs[0]", ["in full"]),
        ({**GOOD, "cidrs": ["169.254.0.0/24"]}, {}, Code.BAD_NETWORK, "cidrs[0]", ["cannot be reached"]),
        ({**GOOD, "cidrs": ["fe80::/64"]}, {}, Code.BAD_NETWORK, "cidrs[0]", ["cannot be reached"]),
        (
            {**GOOD, "cidrs": ["192.0.2.64/28", "192.0.2.70"]},
            *({}, Code.OVERLAP, "cidrs[1]", ["shares addresses with item 0"]),
        ),
        ({**GOOD, "cidrs": ["10.1.7.0/24"]}, {}, Code.OVERLAP, "cidrs[0]", ["`pod-cidr` 10.1.0.0/16"]),
        ({**GOOD, "cidrs": ["10.152.0.0/16"]}, {}, Code.OVERLAP, "cidrs[0]", ["`service-cidr`"]),
        (
            *(GOOD, {"node": {"ip": "192.0.2.70"}}),
            *(Code.OVERLAP, "cidrs[0]", ["192.0.2.70, the address of this machine", "node.ip"]),
        ),
        (
            *(GOOD, {"cluster": {"virtual-address": "192.0.2.79"}}),
            *(Code.OVERLAP, "cidrs[0]", ["192.0.2.79, the address of the API"]),
        ),
        ({**GOOD, "l2-interfaces": ["eth 0"]}, {}, Code.BAD_VALUE, "l2-interfaces[0]", ["`ip link`"]),
        (BGP, {}, Code.MISSING_KEY, "bgp-peers", ["nobody to speak to"]),
        (
            {key: value for key, value in BGP.items() if key != "bgp-local-asn"} | {"bgp-peers": [PEER]},
            *({}, Code.MISSING_KEY, "bgp-local-asn", ["64512"]),
        ),
        (
            {**BGP, "bgp-local-asn": 0, "bgp-peers": [PEER]},
            {},
            Code.BAD_VALUE,
            "bgp-local-asn",
            ["from 1 to"],
        ),
        (
            {**BGP, "bgp-local-asn": 65535, "bgp-peers": [PEER]},
            {},
            Code.BAD_VALUE,
            "bgp-local-asn",
            ["nobody"],
        ),
        ({**BGP, "bgp-peers": [{"asn": 1}]}, {}, Code.MISSING_KEY, "bgp-peers[0].address", ["`address:`"]),
        (
            {**BGP, "bgp-peers": [{**PEER, "asn": 23456}]},
            *({}, Code.BAD_VALUE, "bgp-peers[0].asn", ["above 65535"]),
        ),
        (
            {**BGP, "bgp-peers": [{**PEER, "asn": 4294967295}]},
            *({}, Code.BAD_VALUE, "bgp-peers[0].asn", ["too large"]),
        ),
        (
            {**BGP, "bgp-peers": [{**PEER, "address": "router"}]},
            *({}, Code.BAD_ADDRESS, "bgp-peers[0].address", ["`router`"]),
        ),
        (
            {**BGP, "bgp-peers": [{**PEER, "address": "192.0.2.66"}]},
            *({}, Code.OVERLAP, "bgp-peers[0].address", ["one of `cidrs`"]),
        ),
        ({**BGP, "bgp-peers": [{**PEER, "port": 0}]}, {}, Code.BAD_VALUE, "bgp-peers[0].port", ["65535"]),
        ({**BGP, "bgp-peers": [PEER, PEER]}, {}, Code.BAD_VALUE, "bgp-peers[1]", ["item 0 once more"]),
    ],
)
def test_one_mistake_one_failure(
    settings: dict[str, Any], more: dict[str, Any], code: Code, path: str, words: list[str]
) -> None:
    with pytest.raises(DocumentError) as raised:
        check_data(document(settings, **more))
    [failure] = raised.value.failures
    assert (failure.code, failure.path) == (code, f"{HERE}.{path}")
    for word in words:
        assert word in f"{failure.found} {failure.remedy}"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (GOOD, []),
        ({**GOOD, "l2-interfaces": ["eth7", "eth1"]}, []),
        ({**GOOD, "l2-interfaces": ["eth7"]}, [(Code.NOT_ON_NODE, "l2-interfaces", "it has eth0, eth1")]),
        ({**GOOD, "l2-interfaces": ["eth7"], "enabled": False}, []),
        (
            {**GOOD, "cidrs": ["192.0.2.0/28"]},
            [(Code.ADDRESS_TAKEN, "cidrs[0]", "192.0.2.10, which this machine")],
        ),
    ],
)
def test_a_machine_that_cannot_be_such_a_node(
    settings: dict[str, Any], expected: list[tuple[Code, str, str]]
) -> None:
    facts = Facts("node-1", {"eth0": ("192.0.2.10/24",)}, (), "192.0.2.10", 2**33, links=("eth0", "eth1"))
    found = check_facts(Config.from_dict(document(settings)), facts)
    assert [(each.code, each.path) for each in found] == [
        (code, f"{HERE}.{path}") for code, path, _ in expected
    ]
    assert all(words in each.found for each, (*_, words) in zip(found, expected, strict=True))


def node(settings: dict[str, Any], role: str = "control-plane", **more: Any) -> Node:
    cluster = {} if role == "control-plane" else {"token": "0" * 32, "endpoints": ["192.0.2.1"]}
    config = Config.from_dict(
        {"role": role, "cluster": {**cluster, **more}, "features": {"load-balancer": settings}}
    )
    networks = (("eth0", "192.0.2.1/24"), ("eth1", "198.51.100.1/25"))
    return Node(config, "node-1", "192.0.2.1", networks=networks, links=("eth0", "eth1", "eth2"))


def test_a_node_runs_what_its_modes_need() -> None:
    both = {**BGP, "l2-mode": True, "l2-interfaces": ["eth9", "eth2"], "bgp-peers": [PEER]}
    for settings, units in (
        (GOOD, ["load-balancer", "load-balancer-l2"]),
        ({**BGP, "bgp-peers": [PEER]}, ["load-balancer", "load-balancer-bgp"]),
        (both, ["load-balancer", "load-balancer-l2", "load-balancer-bgp"]),
    ):
        for role in ("control-plane", "worker"):
            found = loadbalancer.feature(node(settings, role))
            assert [service.unit for service in found.services] == units
    told = Settings.from_json(found.services[0].files[0].data.decode())
    assert (told.node, told.allocates, told.proxied, told.virtual) == ("node-1", False, True, None)
    assert told.cards.chosen == ("eth2",) and told.cards.ip == "192.0.2.1"
    leads = loadbalancer.told(node(both, **{"virtual-address": "192.0.2.100"}))
    assert (leads.allocates, leads.virtual) == (True, ("192.0.2.100", 100))


def test_the_plan_is_sound_whether_it_is_on_or_off() -> None:
    for settings in (GOOD, {"enabled": False}, {**BGP, "bgp-peers": [PEER]}):
        for role in ("control-plane", "worker"):
            each = node(settings, role)
            memory = Memory(cast(Any, None), Applied(), Path("/nowhere/membership"))
            steps = plan(each, wanted(each), catalogue(each.config, "node-1", [each.ip]), memory)
            assert missing_needs(steps) == set()
            names = {step.name for step in steps}
            assert ("unit:load-balancer" in names) is settings["enabled"]
            off = role == "control-plane" and not settings["enabled"]
            assert ("released:load-balancer" in names) is ("removed:load-balancer" in names) is off


def test_only_control_planes_may_change_services() -> None:
    names = {
        role: {each.name for each in catalogue(node(GOOD, role).config, "n", ["192.0.2.1"]).certificates}
        for role in ("control-plane", "worker")
    }
    assert "load-balancer" in names["worker"] and "load-balancer-allocator" not in names["worker"]
    assert {"load-balancer", "load-balancer-allocator"} <= names["control-plane"]
    reader = next(each for each in loadbalancer.OBJECTS if each["metadata"]["name"] == "basalt:load-balancer")
    assert {verb for rule in reader["rules"] for verb in rule["verbs"]} == {"list", "watch"}


def test_the_status_says_what_the_service_has_to_say(tmp_path: Any) -> None:
    found = loadbalancer.feature(node(GOOD))
    parts = {service.unit: Part(State.HEALTHY) for service in found.services}
    assert observe.feature_part(found, parts) == Part(State.HEALTHY)
    parts["load-balancer"] = Part(State.HEALTHY, "1 of 16 addresses in use")
    assert observe.feature_part(found, parts) == Part(State.HEALTHY, "1 of 16 addresses in use")
    parts["load-balancer-l2"] = Part(State.DEGRADED, "is starting")
    assert observe.feature_part(found, parts) == Part(State.DEGRADED, "load-balancer-l2: is starting")
    (tmp_path / "account").write_text("1 of 16 addresses in use\n")
    assert ToldProbe(tmp_path, "", tmp_path / "account").detail == "1 of 16 addresses in use"
    assert ToldProbe(tmp_path, "", tmp_path / "none").detail == ToldProbe(tmp_path, "").detail == ""


def service(name: str, address: str = "", **more: Any) -> dict[str, Any]:
    metadata = {
        "namespace": "shop",
        "name": name,
        "uid": name,
        "resourceVersion": "1",
        "creationTimestamp": "t",
    }
    ingress = [{"ip": address}] if address else []
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {**metadata, **more.pop("metadata", {})},
        "spec": {"type": "LoadBalancer", **more},
        "status": {"loadBalancer": {"ingress": ingress}},
    }


OURS = {"managedFields": [{"manager": "load-balancer", "subresource": "status"}]}
THEIRS = {"managedFields": [{"manager": "speaker", "subresource": "status"}]}


class Cluster:
    """Services, and what is changed of them."""

    def __init__(self, *services: dict[str, Any]) -> None:
        self.services = {object_path(each): each for each in services}
        self.asked = 0
        self.gone: set[str] = set()

    async def get(self, path: str) -> Any:
        assert path == "/api/v1/services"
        self.asked += 1
        return {"items": list(self.services.values())}

    async def merge(self, path: str, change: Any, manager: str) -> Any:
        if path in self.gone:
            raise KubeError("PATCH", path, 404, "not found")
        assert (manager, change["status"]) == ("load-balancer", {"loadBalancer": {"ingress": None}})
        self.services[path.removesuffix("/status")]["status"] = {}
        return {}


def go(step: Released, cluster: Cluster, active: str = "inactive") -> str | None:
    units = {"load-balancer": Unit("load-balancer.service", active, "", "/")}

    async def once() -> str | None:
        machine = Machine(cast(Any, None), cast(Any, cluster), units)
        if (found := await step.check(machine)) is None:
            return None
        if not found.waits:
            await step.apply(machine)
        return found.action

    return asyncio.run(once())


def test_what_was_given_is_taken_back_when_it_is_switched_off() -> None:
    cluster = Cluster(
        service("ours", "192.0.2.64", metadata=OURS),
        service("theirs", "203.0.113.1", metadata=THEIRS),
        service("none", metadata=OURS),
        service("gone", "192.0.2.65", metadata=OURS),
    )
    cluster.gone.add("/api/v1/namespaces/shop/services/gone/status")
    step = Released(Applied())
    assert go(step, cluster, "active") == "wait", "it would give them again"
    assert go(step, cluster) == "release"
    left = {
        each["metadata"]["name"] for each in cluster.services.values() if each["status"].get("loadBalancer")
    }
    assert left == {"theirs", "none", "gone"}
    del cluster.services["/api/v1/namespaces/shop/services/gone"]
    assert go(step, cluster) is None
    asked = cluster.asked
    assert go(step, cluster) is None and cluster.asked == asked, "it is looked at every few minutes"


class SettingsApi(Api):
    """The settings of a cluster with Services and nodes."""

    def __init__(self, *services: dict[str, Any]) -> None:
        super().__init__(FIRST)
        self.services = list(services)
        has = [{"type": "InternalIP", "address": "192.0.2.9"}]
        self.objects["/api/v1/nodes/w-1"] = {"metadata": {"name": "w-1"}, "status": {"addresses": has}}

    async def get(self, path: str) -> Any:
        return {"items": self.services} if path == "/api/v1/services" else await super().get(path)


def test_services_keep_what_they_have() -> None:
    api = SettingsApi(
        service("web", "192.0.2.64"),
        service("waits"),
        service("foreign", "203.0.113.1", loadBalancerClass="example.org/other"),
    )
    steward = Steward(api, may=lambda: None, changed=lambda: None)
    prefix = "features.load-balancer."

    def change(force: bool = False, **values: Any) -> None:
        settings = {prefix + key.replace("_", "-"): value for key, value in values.items()}
        asyncio.run(steward.change(settings, "alice", force=force))

    change(enabled=True, cidrs=["192.0.2.64/28"], l2_mode=True)
    with pytest.raises(Refused) as raised:
        change(enabled=False)
    [failure] = raised.value.failures
    assert (failure.code, failure.path) == (Code.FEATURE_IN_USE, f"{prefix}enabled")
    assert "Service shop/waits, Service shop/web would be left without it" in failure.found
    with pytest.raises(Refused) as raised:
        change(cidrs=["192.0.2.72/29"])
    [failure] = raised.value.failures
    assert (failure.code, failure.path) == (Code.FEATURE_IN_USE, f"{prefix}cidrs")
    assert failure.found == "Service shop/web (192.0.2.64) would lose what they have"
    change(cidrs=["192.0.2.64/29"])
    for wrong, words in (
        (["192.0.2.8/29"], "192.0.2.9, the address of w-1"),
        (["x"], "no network and no range"),
    ):
        with pytest.raises(DocumentError, match=words):
            change(cidrs=wrong, force=True)
    change(cidrs=["192.0.2.72/29"], force=True)
    change(enabled=False, force=True)
    assert json.loads(json.dumps(api.newest.settings))["features"]["load-balancer"]["enabled"] is False
