# SPDX-License-Identifier: Apache-2.0
"""Probes and API requests against a real HTTP server on the loopback address."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from firstboot import kube
from firstboot.kube import Client, KubeError, Trust, object_path
from firstboot.probes import (
    All,
    FileProbe,
    Found,
    HttpProbe,
    NodeHasNetwork,
    NodeIsReady,
    Probe,
    SocketProbe,
)
from firstboot.steps.model import Finding, Machine, Step
from firstboot.steps.network import PodNetwork
from firstboot.steps.objects import Applied
from firstboot.steps.pods import UNREADY, FirstPods, Schedulable
from firstboot.systemd import Systemd

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    """Serve on a free port; give the URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def answering(status: int, body: Any) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        if isinstance(body, str):
            return web.Response(status=status, text=body)
        return web.json_response(body, status=status)

    return handle


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, "ok", None),
        (
            500,
            "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed",
            "answers 500: [-]etcd failed",
        ),
        (503, "not yet", "answers 503: not yet"),
    ],
)
def test_a_service_says_why_it_does_not_work(status: int, body: str, expected: str | None) -> None:
    async def ask() -> str | None:
        async with served(answering(status, body)) as url, Client() as client:
            return await HttpProbe(url + "/readyz")(client)

    answer = asyncio.run(ask())
    assert answer is None if expected is None else answer is not None and answer.startswith(expected)


def test_nobody_listening_is_a_reason() -> None:
    async def ask() -> str | None:
        async with Client() as client:
            return await HttpProbe("http://127.0.0.1:1/healthz", Trust.PLAIN)(client)

    assert "127.0.0.1:1" in (asyncio.run(ask()) or "")


def without_tls(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(kube, "SERVER", url)
    monkeypatch.setattr(Client, "_context", lambda self, trust: True)


NODE = "/api/v1/nodes/cp1"
READY = {"spec": {"podCIDR": "10.1.0.0/24"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
NOT_READY = {
    "spec": {},
    "status": {"conditions": [{"type": "Ready", "status": "False", "message": "cni plugin not initialized"}]},
}


@pytest.mark.parametrize(
    ("probe", "status", "body", "expected"),
    [
        (NodeIsReady("cp1"), 200, READY, None),
        (NodeIsReady("cp1"), 200, NOT_READY, "cni plugin not initialized"),
        (NodeIsReady("cp1"), 200, {"spec": {}}, "the kubelet has not reported yet"),
        (NodeIsReady("cp1"), 404, {"message": "not found"}, "the node is not registered yet"),
        (Found(NODE, "is not there"), 200, READY, None),
        (Found(NODE, "is not there"), 404, {"message": "not found"}, "is not there"),
        (Found(NODE, "is not there"), 503, {"message": "no metrics"}, f"GET {NODE}: 503: no metrics"),
        (NodeHasNetwork("cp1"), 200, READY, None),
        (NodeHasNetwork("cp1"), 200, NOT_READY, "no pod network assigned to the node yet"),
        (NodeHasNetwork("cp1"), 403, {"message": "forbidden"}, f"GET {NODE}: 403: forbidden"),
    ],
)
def test_objects_of_the_api_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, probe: Probe, status: int, body: Any, expected: str | None
) -> None:
    async def ask() -> str | None:
        async with served(answering(status, body)) as url, Client() as client:
            without_tls(monkeypatch, url)
            return await probe(client)

    assert asyncio.run(ask()) == expected


def test_an_object_is_applied_by_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str, str, str]] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append((request.method, request.path, request.query_string, request.content_type))
        return web.json_response({}, status=201)

    async def apply() -> None:
        async with served(handle) as url, Client() as client:
            without_tls(monkeypatch, url)
            await client.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "cp1"}})

    asyncio.run(apply())
    assert seen == [("PATCH", NODE, "fieldManager=basalt&force=true", "application/apply-patch+yaml")]


@pytest.mark.parametrize("hours", [2, -2])
def test_an_answer_tells_how_far_the_clocks_are_apart(monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.json_response({}, headers={"Date": formatdate(time.time() - hours * 3600, usegmt=True)})

    async def asked() -> float:
        async with served(handle) as url, Client() as client:
            without_tls(monkeypatch, url)
            await client.get("/api/v1/nodes/node-1")
            return client.ahead

    assert abs(asyncio.run(asked()) - hours * 3600) < 60


def test_a_refusal_is_told_in_the_servers_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async def apply() -> None:
        async with served(answering(422, {"message": "spec is invalid"})) as url, Client() as client:
            without_tls(monkeypatch, url)
            await client.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "cp1"}})

    with pytest.raises(KubeError, match="422: spec is invalid"):
        asyncio.run(apply())


def done(
    monkeypatch: pytest.MonkeyPatch, handle: Handler, step: Step
) -> tuple[Finding | None, Finding | None]:
    """Do a step against an API; return what it found before and afterwards."""

    async def do() -> tuple[Finding | None, Finding | None]:
        async with served(handle) as url, Client() as client:
            without_tls(monkeypatch, url)
            machine = Machine(cast(Systemd, None), client, {})
            finding = await step.check(machine)
            if finding and not finding.waits:
                await step.apply(machine)
            return finding, await step.check(machine)

    return asyncio.run(do())


def node_named(name: str, **spec: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize(
    ("nodes", "patch_status", "action", "patches"),
    [
        ([], 200, "wait", 0),
        ([node_named("cp1")], 200, "assign", 1),
        ([node_named("cp1")], 422, "assign", 1),
        ([node_named("cp1", podCIDR="10.1.7.0/24")], 200, None, 0),
        ([node_named("cp1"), node_named("cp2")], 200, None, 0),
        ([node_named("old")], 200, None, 0),
    ],
    ids=["none yet", "alone", "controller manager was quicker", "has one", "others", "another"],
)
def test_the_first_node_takes_the_first_pod_network(
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[dict[str, Any]],
    patch_status: int,
    action: str | None,
    patches: int,
) -> None:
    seen: list[dict[str, Any]] = []

    async def handle(request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response({"items": nodes})
        seen.append(json.loads(await request.text()))
        return web.json_response({"message": "may not change"}, status=patch_status)

    finding, _ = done(monkeypatch, handle, PodNetwork("cp1", ("10.1.0.0/24", "fd01::/64")))
    assert (finding and finding.action) == action
    first = {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd01::/64"]}
    assert [node["spec"] for node in seen] == [first] * patches


@pytest.mark.parametrize(
    ("there", "taken", "action", "made"),
    [
        ((), False, "wait", []),
        (("namespaces/default",), False, "create", ["serviceaccounts", "configmaps"]),
        (
            ("namespaces/default", "serviceaccounts/default"),
            False,
            "create",
            ["serviceaccounts", "configmaps"],
        ),
        (("namespaces/default",), True, "create", ["serviceaccounts", "configmaps"]),
        (("namespaces/default", "serviceaccounts/default", "configmaps/kube-root-ca.crt"), False, None, []),
    ],
    ids=["no namespace yet", "nothing yet", "half of it", "controller manager was quicker", "all there"],
)
def test_pods_can_be_made_before_the_controller_manager_works(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    there: tuple[str, ...],
    taken: bool,
    action: str | None,
    made: list[str],
) -> None:
    (tmp_path / "ca.crt").write_text("the CA")
    posts: list[tuple[str, Any]] = []

    async def handle(request: web.Request) -> web.Response:
        if request.method == "POST":
            posts.append((request.path.removeprefix("/api/v1/namespaces/default/"), await request.json()))
            return web.json_response({"message": "taken"}, status=409 if taken else 201)
        return web.json_response({}, status=200 if request.path.endswith(there) else 404)

    finding, after = done(monkeypatch, handle, FirstPods(Applied(), tmp_path / "ca.crt"))
    assert (finding and finding.action) == action
    assert after is None or after.waits
    assert [path for path, _ in posts] == made
    assert [obj["data"] for _, obj in posts if "data" in obj] == [{"ca.crt": "the CA"}] * bool(made)


OTHER_TAINT = {"key": "example.org/kept", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("ready", "tainted", "taken", "action", "after"),
    [
        ("False", True, False, "wait", []),
        (None, True, False, "wait", []),
        ("True", True, False, "untaint", [[OTHER_TAINT]]),
        ("True", True, True, "untaint", [[OTHER_TAINT]]),
        ("True", False, False, None, []),
        ("False", False, False, None, []),
    ],
    ids=[
        "not Ready",
        "no word yet",
        "Ready",
        "changed meanwhile",
        "free",
        "not ready again, which is not ours",
    ],
)
def test_a_first_node_takes_pods_when_it_is_ready(
    monkeypatch: pytest.MonkeyPatch,
    ready: str | None,
    tainted: bool,
    taken: bool,
    action: str | None,
    after: list[list[dict[str, str]]],
) -> None:
    taints = [OTHER_TAINT, *([{"key": UNREADY, "effect": "NoSchedule"}] if tainted else [])]
    conditions = [{"type": "Ready", "status": ready}] if ready else []
    node = {"metadata": {"name": "cp1"}, "spec": {"taints": taints}, "status": {"conditions": conditions}}
    puts: list[Any] = []

    async def handle(request: web.Request) -> web.Response:
        if request.method == "PUT":
            puts.append((await request.json())["spec"]["taints"])
            return web.json_response({"message": "changed"}, status=409 if taken else 200)
        return web.json_response(node)

    finding, _ = done(monkeypatch, handle, Schedulable("cp1"))
    assert (finding and finding.action) == action
    assert puts == after


@pytest.mark.parametrize(
    ("version", "kind", "metadata", "path"),
    [
        ("v1", "Service", {"name": "s", "namespace": "n"}, "/api/v1/namespaces/n/services/s"),
        (
            "rbac.authorization.k8s.io/v1",
            "ClusterRole",
            {"name": "r"},
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/r",
        ),
    ],
)
def test_the_path_of_an_object(version: str, kind: str, metadata: dict[str, str], path: str) -> None:
    assert object_path({"apiVersion": version, "kind": kind, "metadata": metadata}) == path


def test_files_and_sockets_are_probed(tmp_path: Path) -> None:
    async def ask(probe: Probe) -> str | None:
        async with Client() as client:
            return await probe(client)

    missing = FileProbe(tmp_path / "subnet.env", "no subnet yet")
    present = FileProbe(tmp_path, "no folder")
    assert asyncio.run(ask(missing)) == "no subnet yet"
    assert asyncio.run(ask(All((present, missing)))) == "no subnet yet"
    assert asyncio.run(ask(All((present,)))) is None
    assert "does not accept connections" in (asyncio.run(ask(SocketProbe(tmp_path / "x.sock"))) or "")
