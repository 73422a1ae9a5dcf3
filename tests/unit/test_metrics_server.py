# SPDX-License-Identifier: Apache-2.0
"""Feature metrics-server: what it needs on a control plane and in the cluster, and what remains of it: nothing."""

from __future__ import annotations

import asyncio
import copy
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot import cli
from firstboot.client import Endpoint
from firstboot.cluster.steward import Steward
from firstboot.config import Config
from firstboot.failure import Refused
from firstboot.features import metrics
from firstboot.features.metrics import PORT
from firstboot.kube import KubeError, Object, Trust, object_path
from firstboot.observe import feature_part
from firstboot.pki.catalogue import METRICS_SERVER_NAME, catalogue
from firstboot.plan import wanted
from firstboot.report.status import Part, State
from firstboot.services.model import Node
from firstboot.steps import objects
from firstboot.steps.model import Machine
from firstboot.steps.objects import AggregatedApi, Applied, Objects, Removed

from .support_web import serve
from .test_cluster_joining import Objects as Known
from .test_cluster_settings import FIRST, Api

SWITCH = "features.metrics-server.enabled"
API = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io"
SERVICE = "/api/v1/namespaces/kube-system/services/metrics-server"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices"
SCALERS = "/apis/autoscaling/v2/horizontalpodautoscalers"


def node(
    enabled: bool = True, name: str = "cp-1", ip: str = "192.0.2.1", role: str = "control-plane"
) -> Node:
    cluster = {} if role == "control-plane" else {"token": "0" * 32, "endpoints": ["192.0.2.1"]}
    features = {"metrics-server": {"enabled": enabled}}
    return Node(Config.from_dict({"role": role, "cluster": cluster, "features": features}), name, ip)


class Cluster(Known):
    """Objects with whom they are of; quicker: what another control plane does just before a removal."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.quicker: Callable[[], None] | None = None

    async def get(self, path: str) -> Any:
        self.asked.append(path)
        if path.startswith(f"{SLICES}?"):
            name = path.rpartition("=")[2]
            inside = [each for at, each in self.objects.items() if at.startswith(f"{SLICES}/")]
            label = "kubernetes.io/service-name"
            return {"items": [each for each in inside if each["metadata"]["labels"].get(label) == name]}
        return await super().get(path)

    async def send(self, method: str, path: str, obj: Any = None) -> Any:
        assert method == "DELETE"
        if self.quicker is not None:
            self.quicker()
            self.quicker = None
        if path not in self.objects:
            raise KubeError(method, path, 404, "not found")
        return self.objects.pop(path)

    async def apply(
        self, obj: Object, manager: str = "basalt", trust: Trust = Trust.CLUSTER, seconds: float = 0
    ) -> None:
        made = copy.deepcopy(dict(obj))
        made["metadata"]["managedFields"] = [{"manager": manager}]
        self.objects[object_path(obj)] = made


def go(step: Any, cluster: Cluster) -> bool:
    """Let a step do what it finds; whether it found anything."""

    async def once() -> bool:
        machine = Machine(cast(Any, None), cluster, {})
        found = await step.check(machine)
        if found is not None:
            await step.apply(machine)
        return found is not None

    return asyncio.run(once())


def make(cluster: Cluster, each: Node, authorities: Path) -> None:
    """Switch it on at one control plane."""
    feature = metrics.feature(each)
    assert feature.api is not None
    assert go(AggregatedApi("api", feature.api, authorities, Applied()), cluster)
    assert go(Objects("objects", feature.objects, Applied()), cluster)


def removal(applied: Applied) -> Removed:
    return Removed("removed", metrics.feature(node(enabled=False)).leftovers, applied)


@pytest.fixture
def authorities(tmp_path: Path) -> Path:
    path = tmp_path / "ca-trusted.crt"
    path.write_bytes(b"the CA of now")
    return path


def test_each_control_plane_runs_one_and_adds_itself() -> None:
    [found] = [each for each in wanted(node()).features if each.name == "metrics-server"]
    [service] = found.services
    assert service.arguments["bind-address"] == "192.0.2.1" and service.needs == ("apiserver", "node")
    certificates = catalogue(node().config, "cp-1", ["192.0.2.1"])
    own = certificates.certificate("metrics-server-server")
    assert own.dns_names == (METRICS_SERVER_NAME,) and own.ip_addresses == ()
    for argument in ("tls-cert-file", "tls-private-key-file"):
        assert service.arguments[argument] in {str(own.certificate), str(own.key)}
    slices = {each["metadata"]["name"]: each for each in found.objects if each["kind"] == "EndpointSlice"}
    assert slices["metrics-server-cp-1"]["endpoints"] == [
        {"addresses": ["192.0.2.1"], "nodeName": "cp-1", "conditions": {"ready": True}}
    ]
    [entry] = [each for each in found.objects if each["kind"] == "Service"]
    assert entry["spec"]["internalTrafficPolicy"] == "Local"
    assert entry["spec"]["ports"][0]["targetPort"] == PORT


def test_it_listens_on_version_6_too() -> None:
    found = metrics.endpoint(node(ip="2001:db8::1"))
    assert (found["addressType"], found["endpoints"][0]["addresses"]) == ("IPv6", ["2001:db8::1"])
    probe: Any = metrics.server(node(ip="2001:db8::1")).probe
    assert probe.probes[0].url.startswith(f"https://[2001:db8::1]:{PORT}/readyz")


def test_it_works_when_the_api_has_figures_of_the_own_node_whatever_pods_there_are() -> None:
    probe: Any = metrics.server(node()).probe
    assert probe.probes[0].url.endswith("?exclude=metric-storage-ready")
    assert probe.probes[1].path == "/apis/metrics.k8s.io/v1beta1/nodes/cp-1"


def test_a_worker_has_no_part_in_it() -> None:
    assert "metrics-server" not in [each.name for each in wanted(node(role="worker")).features]
    names = {each.name for each in catalogue(node(role="worker").config, "w-1", ["192.0.2.9"]).certificates}
    assert not any(name.startswith("metrics-server") for name in names)


def test_it_is_off_unless_it_is_asked_for() -> None:
    silent = Node(Config.from_dict({"role": "control-plane"}), "cp-1", "192.0.2.1")
    [found] = [each for each in wanted(silent).features if each.name == "metrics-server"]
    assert not found.enabled and feature_part(found, {}) == Part(State.OFF)


def test_the_api_server_believes_it_by_the_ca_of_now(authorities: Path) -> None:
    cluster, applied = Cluster(), Applied()
    step = AggregatedApi("api", metrics.api, authorities, applied)
    assert go(step, cluster) and not go(step, cluster)
    assert b64decode(cluster.objects[API]["spec"]["caBundle"]) == b"the CA of now"
    authorities.write_bytes(b"the CA of now, and the next")
    assert go(step, cluster)
    assert b64decode(cluster.objects[API]["spec"]["caBundle"]) == b"the CA of now, and the next"


def test_nothing_remains_when_it_is_switched_off(authorities: Path) -> None:
    cluster, applied = Cluster(), Applied()
    for each in (node(), node(name="cp-2", ip="192.0.2.2")):
        make(cluster, each, authorities)
    cluster.objects[f"{SLICES}/other"] = {
        "metadata": {"name": "other", "labels": {"kubernetes.io/service-name": "metrics-server"}}
    }
    assert go(removal(applied), cluster)
    assert list(cluster.objects) == [f"{SLICES}/other"], "that one is somebody else's"
    assert not go(removal(applied), cluster)
    cluster.asked.clear()
    assert not go(removal(applied), cluster) and cluster.asked == [], "it is looked at every few minutes"


def test_two_control_planes_remove_it_at_once(authorities: Path) -> None:
    cluster = Cluster()
    make(cluster, node(), authorities)
    cluster.quicker = cluster.objects.clear
    assert go(removal(Applied()), cluster) and not cluster.objects


def test_a_removal_that_was_cut_off_goes_on(authorities: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    make(cluster, node(), authorities)

    def cut() -> None:
        raise KubeError("DELETE", SERVICE, 0, "no answer")

    cluster.quicker = cut
    with pytest.raises(KubeError):
        go(removal(Applied()), cluster)
    assert API in cluster.objects, "what is looked for goes last"
    cluster.quicker = None
    assert go(removal(Applied()), cluster) and not cluster.objects


def test_one_that_somebody_else_has_installed_stays() -> None:
    cluster = Cluster()
    for each in (metrics.api(b"theirs"), metrics.service()):
        asyncio.run(cluster.apply(each, manager="helm"))
    before = dict(cluster.objects)
    assert not go(removal(Applied()), cluster) and cluster.objects == before


def test_it_is_made_again_after_it_was_gone(authorities: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, applied = Cluster(), Applied()
    assert not go(removal(applied), cluster)
    step = AggregatedApi("api", metrics.api, authorities, applied)
    assert go(step, cluster)
    assert go(removal(applied), cluster) and API not in cluster.objects
    monkeypatch.setattr(objects, "AGAIN", 0.0)
    asyncio.run(cluster.apply(metrics.api(b"")))
    assert go(removal(applied), cluster), "it is looked for again"


def autoscaler(name: str, *kinds: str) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"metrics": [{"type": k} for k in kinds]},
    }


class Settings(Api):
    """The settings of a cluster with autoscalers."""

    def __init__(self, *scalers: dict[str, Any]) -> None:
        super().__init__(FIRST)
        self.scalers = list(scalers)

    async def get(self, path: str) -> Any:
        return {"items": self.scalers} if path == SCALERS else await super().get(path)


def test_what_needs_it_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    api = Settings(autoscaler("cart", "Resource"), autoscaler("queue", "External"))
    with serve(tmp_path / "api.sock") as served:
        served.node.steward = Steward(api, may=lambda: None, changed=lambda: None)
        monkeypatch.setattr(Endpoint.__init__, "__defaults__", (None, None, None, None, False, served.socket))
        assert cli.main(["disable", "metrics-server"]) == 0, "it is off"
        assert cli.main(["enable", "metrics-server"]) == 0
        assert f"{SWITCH}: false -> true" in capsys.readouterr().out
        for arguments in (["disable", "metrics-server"], ["set", "--revert", "1"], ["set", f"{SWITCH}="]):
            assert cli.main(arguments) == 1
            told = capsys.readouterr().err
            assert "[feature-in-use]" in told and "HorizontalPodAutoscaler shop/cart would" in told
            assert "queue" not in told and "--force" in told
        assert api.newest.number == 2
        assert cli.main(["disable", "metrics-server", "--force"]) == 0
        assert cli.main(["set", "--revert", "2"]) == 0
        assert cli.main(["set", "--revert", "1", "--force"]) == 0
        assert cli.main(["enable", "metric-server"]) == 2
        assert "metrics-server" in capsys.readouterr().err, "what was meant"


def test_many_are_counted() -> None:
    api = Settings(*(autoscaler(f"a{number:02}", "ContainerResource") for number in range(12)))
    steward = Steward(api, may=lambda: None, changed=lambda: None)
    asyncio.run(steward.change({SWITCH: True}, "alice"))
    with pytest.raises(Refused) as raised:
        asyncio.run(steward.change({SWITCH: False}, "alice"))
    found = raised.value.failures[0].found
    assert "shop/a09 and 2 more would be left without it" in found and "a10" not in found


def test_the_extra_arguments_reach_it() -> None:
    config = Config.from_dict(
        {
            "role": "control-plane",
            "features": {"metrics-server": {"enabled": True}},
            "services": {"metrics-server": {"extra-args": {"metric-resolution": "30s"}}},
        }
    )
    found = wanted(replace(node(), config=config))
    [service] = [each for each in found.all_services if each.unit == "metrics-server"]
    assert service.arguments["metric-resolution"] == "30s"
