# SPDX-License-Identifier: Apache-2.0
"""Features ingress and gateway: what they run, tell and take, without a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot.cluster.orphans import orphans, unnamed
from firstboot.codes import Code
from firstboot.config import Config, GatewayFeature, IngressFeature, Role
from firstboot.failure import DocumentError
from firstboot.features import ingress
from firstboot.kube import Client, Object, object_path
from firstboot.loadbalancer.objects import EXCLUDED
from firstboot.plan import missing_needs, wanted
from firstboot.services.model import Node
from firstboot.steps.ingress import VERSION, Definitions, Published
from firstboot.steps.model import Machine
from firstboot.steps.objects import Applied
from firstboot.systemd import Systemd
from firstboot.validate import check_text
from tests.unit.test_plan import steps

ON = IngressFeature(enabled=True)


def node(ingress: IngressFeature = ON, *, gateway: bool = False, role: Role = Role.CONTROL_PLANE) -> Node:
    config = Config.from_dict({"role": role.value})
    features = replace(config.features, ingress=ingress, gateway=GatewayFeature(enabled=gateway))
    return Node(replace(config, features=features), "cp-1", "192.0.2.7")


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("gateway", [False, True])
@pytest.mark.parametrize("on", [False, True])
def test_one_traefik_for_both_on_every_node(role: Role, gateway: bool, on: bool) -> None:
    run = wanted(node(IngressFeature(enabled=on), gateway=gateway, role=role))
    units = [service.unit for service in run.all_services]
    assert units.count("traefik") == (on or gateway)
    states = {feature.name: feature.enabled for feature in run.features}
    assert (states["ingress"], states["gateway"]) == (on, gateway)


@pytest.mark.parametrize("gateway", [False, True])
@pytest.mark.parametrize("on", [False, True])
def test_the_plan_is_sound(on: bool, gateway: bool) -> None:
    found = steps(features={"ingress": {"enabled": on}, "gateway": {"enabled": gateway}})
    names = [step.name for step in found]
    assert not missing_needs(found) and len(names) == len(set(names))
    assert ("ingress-addresses" in names) is (on or gateway)
    assert ("definitions:gateway" in names, "removed:gateway" in names) == (gateway, not gateway)
    assert ("removed:ingress" in names) is not on


def test_what_the_document_says_reaches_traefik() -> None:
    said = IngressFeature(True, "wildcard", True, ("192.0.2.200", "198.51.100.0/24"))
    arguments = ingress.traefik(node(said)).arguments
    assert arguments["default-certificate"] == "kube-system/wildcard"
    assert arguments["proxy-protocol-from"] == "192.0.2.200,198.51.100.0/24"
    assert (arguments["ingress"], "gateway" in arguments) == ("true", False)
    arguments = ingress.traefik(node(IngressFeature(default_tls_secret="x"), gateway=True)).arguments
    assert (arguments["gateway"], "ingress" in arguments, "default-certificate" in arguments) == (
        "true",
        False,
        False,
    )


DOCUMENT = "#cloud-config\nbasalt:\n  version: 1\n  role: control-plane\n  features:\n    ingress: {{{}}}\n"


@pytest.mark.parametrize(
    ("said", "code", "path", "word"),
    [
        ("enable-proxy-protocol: true", Code.MISSING_KEY, "trusted-proxies", "can claim any address"),
        ("trusted-proxies: [10.0.0.0/8, 192.0.2.1/24]", Code.BAD_NETWORK, "trusted-proxies[1]", "host bits"),
        ("trusted-proxies: [proxy.example.org]", Code.BAD_NETWORK, "trusted-proxies[0]", "`192.0.2.10`"),
        ("default-tls-secret: Wild_Card", Code.BAD_VALUE, "default-tls-secret", "Wild_Card"),
        ("default-tls-secret: a/b", Code.BAD_VALUE, "default-tls-secret", "the name of a Secret"),
    ],
)
def test_each_mistake(said: str, code: Code, path: str, word: str) -> None:
    with pytest.raises(DocumentError) as caught:
        check_text(DOCUMENT.format(said), "FILE")
    [failure] = caught.value.failures
    assert (failure.code, failure.path) == (code, f"basalt.features.ingress.{path}")
    assert word in f"{failure.found} {failure.remedy}"


def test_objects_have_the_paths_of_the_api() -> None:
    assert object_path(ingress.ingress_class()) == "/apis/networking.k8s.io/v1/ingressclasses/basalt"
    assert object_path(ingress.gateway_class()) == "/apis/gateway.networking.k8s.io/v1/gatewayclasses/basalt"
    assert object_path(ingress.service()) == "/api/v1/namespaces/kube-system/services/ingress"


@dataclass
class Api:
    """Objects by path; what is applied is merged into them, as far as these tests need it."""

    objects: dict[str, Any] = field(default_factory=dict)
    applied: list[str] = field(default_factory=list)

    async def get(self, path: str) -> Any:
        return self.objects.get(path)

    async def apply(self, obj: Object, *, seconds: float = 0) -> None:
        path = object_path(obj)
        self.applied.append(path)
        self.objects[path] = {**self.objects.get(path, {}), **obj}

    async def apply_status(self, obj: Object) -> None:
        await self.apply(obj)


def machine(api: Api) -> Machine:
    return Machine(cast(Systemd, None), cast(Client, api), {})


def member(
    name: str, address: str, *, ready: bool = True, labels: Mapping[str, str] | None = None
) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": str(ready)}]
    status = {"conditions": conditions, "addresses": [{"type": "InternalIP", "address": address}]}
    return {"metadata": {"name": name, "labels": labels or {}}, "status": status}


def settle(step: Any, api: Api) -> int:
    """Have the step do what it finds until it finds nothing; return how often that was."""

    async def run() -> int:
        for times in range(5):
            if await step.check(machine(api)) is None:
                return times
            await step.apply(machine(api))
        raise AssertionError("it never ends")

    return asyncio.run(run())


SERVICE = object_path(ingress.service())
SLICE = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/ingress"


def test_nodes_that_serve_are_published_and_followed() -> None:
    api, step = Api({SERVICE: ingress.service()}), Published(Applied())
    members = [
        member("cp-1", "192.0.2.7"),
        member("w-1", "192.0.2.8"),
        member("w-2", "192.0.2.9", ready=False),
    ]
    members.append(member("w-3", "192.0.2.10", labels={EXCLUDED: ""}))
    api.objects["/api/v1/nodes"] = {"items": members}
    assert settle(step, api) == 1
    assert [each["nodeName"] for each in api.objects[SLICE]["endpoints"]] == ["cp-1", "w-1"]
    told = api.objects[SERVICE]["status"]["loadBalancer"]["ingress"]
    assert told == [{"ip": each, "ipMode": "Proxy"} for each in ("192.0.2.7", "192.0.2.8")]
    assert settle(step, api) == 0
    api.objects["/api/v1/nodes"] = {"items": members[1:]}
    assert settle(step, api) == 1
    assert [each["ip"] for each in api.objects[SERVICE]["status"]["loadBalancer"]["ingress"]] == ["192.0.2.8"]


def test_a_load_balancer_gives_the_address_itself() -> None:
    api, step = Api({SERVICE: ingress.service()}), Published(Applied(), balanced=True)
    api.objects["/api/v1/nodes"] = {"items": [member("cp-1", "192.0.2.7")]}
    assert settle(step, api) == 1
    assert api.objects[SLICE]["endpoints"] and "status" not in api.objects[SERVICE]


def definition(version: str, established: bool = True) -> dict[str, Any]:
    conditions = [{"type": "Established", "status": str(established)}]
    return {"metadata": {"annotations": {VERSION: version}}, "status": {"conditions": conditions}}


@pytest.fixture
def kinds(tmp_path: Path) -> Definitions:
    for plural in ("gateways", "httproutes"):
        metadata = (
            f"metadata:\n  name: {plural}.gateway.networking.k8s.io\n  annotations:\n    {VERSION}: v1.6.1\n"
        )
        text = f"apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n{metadata}"
        (tmp_path / f"gateway.networking.k8s.io_{plural}.yaml").write_text(text)
    return Definitions("definitions:gateway", tmp_path, Applied())


PLACE = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GATEWAYS, ROUTES = (f"{PLACE}/{each}.gateway.networking.k8s.io" for each in ("gateways", "httproutes"))


def test_kinds_that_are_missing_or_older_are_applied_and_newer_ones_stay(kinds: Definitions) -> None:
    for found, applied in (
        ({}, [GATEWAYS, ROUTES]),
        ({GATEWAYS: definition("v1.6.1"), ROUTES: definition("v1.10.0")}, []),
        ({GATEWAYS: definition("v1.5.0"), ROUTES: definition("v1.6.1")}, [GATEWAYS]),
        ({GATEWAYS: {"metadata": {}}, ROUTES: definition("v1.6.1")}, [GATEWAYS]),
    ):
        api = Api(dict(found))
        asyncio.run(kinds.apply(machine(api)))
        assert api.applied == applied


def test_a_kind_counts_once_the_api_server_serves_it(kinds: Definitions) -> None:
    api = Api({GATEWAYS: definition("v1.6.1"), ROUTES: definition("v1.6.1", established=False)})
    finding = asyncio.run(kinds.check(machine(api)))
    assert finding is not None and finding.waits and finding.path == ROUTES
    api.objects[ROUTES] = definition("v1.6.1")
    assert asyncio.run(kinds.check(machine(api))) is None


def test_what_would_be_orphaned() -> None:
    def described(name: str, annotated: str | None = None, **spec: str) -> dict[str, Any]:
        annotations = {"annotations": {"kubernetes.io/ingress.class": annotated}} if annotated else {}
        return {"metadata": {"namespace": "shop", "name": name, **annotations}, "spec": spec}

    api = Api(
        {
            "/apis/networking.k8s.io/v1/ingresses": {
                "items": [
                    described("front", ingressClassName="basalt"),
                    described("other", ingressClassName="nginx"),
                    described("old", annotated="basalt"),
                    described("old-other", annotated="nginx"),
                    described("plain"),
                ]
            },
            "/apis/gateway.networking.k8s.io/v1/gateways": {
                "items": [described("edge", gatewayClassName="basalt")]
            },
        }
    )
    on, off = (
        dict.fromkeys(("features.ingress.enabled", "features.gateway.enabled"), each)
        for each in (True, False)
    )
    failures = asyncio.run(orphans(cast(Client, api), on, off))
    assert [failure.found for failure in failures] == [
        "Ingress shop/front, Ingress shop/old, Ingress shop/plain would be left without it",
        "Gateway shop/edge would be left without it",
    ]
    del api.objects["/apis/gateway.networking.k8s.io/v1/gateways"]
    assert len(asyncio.run(orphans(cast(Client, api), on, off))) == 1


@pytest.mark.parametrize(
    ("secret", "found"),
    [
        (None, "does not exist"),
        ({"type": "Opaque"}, "is of type Opaque"),
        ({"type": "kubernetes.io/tls"}, None),
    ],
)
def test_a_secret_that_is_named_has_to_be_there(secret: Any, found: str | None) -> None:
    api = Api({"/api/v1/namespaces/kube-system/secrets/wildcard": secret})
    failures = asyncio.run(unnamed(cast(Client, api), {"features.ingress.default-tls-secret": "wildcard"}))
    assert [failure.found for failure in failures] == (
        [f"Secret kube-system/wildcard {found}"] if found else []
    )
    assert not asyncio.run(unnamed(cast(Client, api), {"features.ingress.default-tls-secret": None}))
