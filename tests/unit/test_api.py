# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from firstboot import schema
from firstboot.api import app, logs
from firstboot.api.node import PlannedStep
from firstboot.api.server import ApiServer
from firstboot.client import Client, Endpoint
from firstboot.cluster.removal import Progress
from firstboot.failure import BasaltError, DocumentError, Failure
from firstboot.report.status import Phase
from tests.unit.support_web import CERTIFICATES, DEGRADED, READY, MadeUpNode, Served, loop_in_thread, serve

UNITS = Path(__file__).parents[2] / "overlays/usr/lib/systemd/system"
DESCRIPTION: dict[str, Any] = json.loads(app.description())


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serve(tmp_path / "api.sock") as served:
        yield served


def resolve(described: Any) -> Any:
    """Return a schema of the description with its references filled in."""
    if isinstance(described, dict):
        if described.get("$ref") == "status.schema.json":
            return schema.load("status")
        if "$ref" in described:
            target: Any = DESCRIPTION
            for step in described["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            return resolve(target)
        return {key: resolve(value) for key, value in described.items()}
    return [resolve(each) for each in described] if isinstance(described, list) else described


def assert_described(path: str, method: str, code: int, body: Any) -> None:
    """Check an answer against the description."""
    responses = DESCRIPTION["paths"][path][method]["responses"]
    described = resolve(responses.get(str(code), responses["default"]))
    jsonschema.Draft202012Validator(described["content"]["application/json"]["schema"]).validate(body)


def test_routes_and_description_are_the_same() -> None:
    routes = {
        (resource.canonical, route.method.lower())
        for resource in app.application(MadeUpNode()).router.resources()
        for route in resource
    }
    assert routes == {(path, method) for path, methods in DESCRIPTION["paths"].items() for method in methods}


def test_description_names_what_there_is() -> None:
    parameters = {p["name"]: p["schema"] for p in DESCRIPTION["paths"]["/v1/logs"]["get"]["parameters"]}
    assert parameters["component"]["enum"] == list(logs.UNITS)
    assert parameters["lines"]["maximum"] == logs.MAX_LINES
    assert parameters["lines"]["default"] == logs.DEFAULT_LINES


def test_status(served: Served) -> None:
    code, body = served.ask("GET", "/v1/status")
    assert (code, body) == (200, READY.to_dict())
    assert_described("/v1/status", "get", code, body)


def test_plan(served: Served) -> None:
    step = PlannedStep("files:kubelet", "/run/basalt/args/kubelet.env", "write", "content differs")
    served.node.steps = [step]
    code, body = served.ask("GET", "/v1/plan")
    assert (code, body) == (200, {"steps": [step.to_dict()]})
    assert_described("/v1/plan", "get", code, body)


def test_certificates(served: Served) -> None:
    code, body = served.ask("GET", "/v1/certificates")
    assert (code, body) == (
        200,
        {"certificates": [each.to_dict() for each in CERTIFICATES], "rotation": None},
    )
    assert_described("/v1/certificates", "get", code, body)


@pytest.mark.parametrize(
    ("query", "asked", "role"),
    [("", "None 3600", ""), ("?role=worker&lifetime=60", "worker 60", "worker")],
)
def test_join_token(served: Served, query: str, asked: str, role: str) -> None:
    code, body = served.ask("POST", f"/v1/join-tokens{query}")
    assert (code, body["role"], served.node.asked) == (200, role, [asked])
    assert_described("/v1/join-tokens", "post", code, body)


@pytest.mark.parametrize(
    "query", ["role=boss", "lifetime=0", "lifetime=604801", "lifetime=1h", "lifetime=%C2%B2"]
)
def test_join_token_wants_a_role_and_a_time(served: Served, query: str) -> None:
    code, body = served.ask("POST", f"/v1/join-tokens?{query}")
    assert (code, body["failures"][0]["path"], served.node.asked) == (400, query.partition("=")[0], [])
    assert_described("/v1/join-tokens", "post", code, body)


def test_a_worker_makes_no_token(served: Served) -> None:
    served.node.has_authority = False
    code, body = served.ask("POST", "/v1/join-tokens")
    assert (code, body["failures"][0]["code"]) == (503, "not-yet")


REMOVED = [
    {"step": "cordon", "text": "w-1 gets no new pods"},
    {"step": "node", "text": "w-1 is out"},
    {"done": True},
]
FULL = Failure("pods-remain", "w-1", "1 pod is still there: a/b", "Use --force.")


@pytest.mark.parametrize(
    ("query", "asked"),
    [("", "w-1 False 600"), ("&force=true&timeout=7", "w-1 True 7"), ("&force=false", "w-1 False 600")],
)
def test_a_removal_is_told_line_by_line(served: Served, query: str, asked: str) -> None:
    lines = removal(served, query)
    assert (lines, served.node.asked) == (REMOVED, [asked])


@pytest.mark.parametrize(
    ("trouble", "code", "found", "remedy"),
    [
        (DocumentError([FULL]), "pods-remain", FULL.found, FULL.remedy),
        (
            BasaltError("no leader"),
            "request-failed",
            "no leader",
            "Run it again: it goes on where it stopped.",
        ),
        (BasaltError("no leader", "Wait."), "request-failed", "no leader", "Wait."),
        (KeyError("x"), "internal-error", "the agent met an error of its own", ""),
    ],
)
def test_a_removal_ends_with_what_is_in_its_way(
    served: Served, trouble: Exception, code: str, found: str, remedy: str
) -> None:
    served.node.trouble = trouble
    first, last = removal(served)
    assert first == REMOVED[0]
    [failure] = last["failures"]
    assert (failure["code"], failure["found"]) == (code, found)
    assert failure["remedy"].startswith(remedy)
    served.node.trouble = None
    assert removal(served) == REMOVED, "and can be asked for again"


def removal(served: Served, query: str = "") -> list[Any]:
    """Ask for a removal; return its lines, each of the form that is described."""
    code, text = served.ask("POST", f"/v1/remove-node?name=w-1{query}")
    assert code == 200
    described = DESCRIPTION["paths"]["/v1/remove-node"]["post"]["responses"]["200"]["content"]
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        jsonschema.validate(line, resolve(described["application/x-ndjson"]["schema"]))
    return lines


@pytest.mark.parametrize(
    "query",
    ["name=", "name=W", "name=../x", "name=w-1&force=yes", "name=w-1&timeout=0", "name=w-1&timeout=1h"],
)
def test_a_removal_wants_a_name_and_a_time(served: Served, query: str) -> None:
    code, body = served.ask("POST", f"/v1/remove-node?{query}")
    wrong = query.rpartition("&")[2].partition("=")[0]
    assert (code, body["failures"][0]["path"], served.node.asked) == (400, wrong, [])
    assert_described("/v1/remove-node", "post", code, body)


def test_a_worker_removes_nobody(served: Served) -> None:
    served.node.has_authority = False
    code, body = served.ask("POST", "/v1/remove-node?name=w-1")
    assert (code, body["failures"][0]["code"]) == (503, "not-yet")


def test_one_node_is_removed_at_a_time(served: Served) -> None:
    entered, held = threading.Event(), asyncio.Event()

    async def slow(name: str, force: bool, timeout: int) -> AsyncIterator[Progress]:
        entered.set()
        await held.wait()
        return served.node._removal(name)

    served.node.remove_node = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as beside:
        first = beside.submit(removal, served)
        assert entered.wait(10)
        code, body = served.ask("POST", "/v1/remove-node?name=w-2")
        assert (code, body["failures"][0]["code"]) == (429, "too-many-requests")

        async def release() -> None:
            held.set()

        served.run(release())
        assert first.result(10) == REMOVED


@pytest.mark.parametrize(
    ("query", "member", "code", "asked"),
    [
        ("", False, 200, ["reset False"]),
        ("", True, 409, []),
        ("?force=true", True, 200, ["reset True"]),
        ("?force=1", False, 400, []),
    ],
)
def test_reset(served: Served, query: str, member: bool, code: int, asked: list[str]) -> None:
    served.node.has_authority = not member
    got, body = served.ask("POST", f"/v1/reset{query}")
    assert (got, served.node.asked) == (code, asked)
    assert_described("/v1/reset", "post", got, body)
    assert code != 409 or body["failures"][0]["code"] == "reset-refused"


def test_version(served: Served) -> None:
    code, body = served.ask("GET", "/v1/version")
    assert (code, body) == (200, {"api": "v1", "basalt": "1.2.3", "kubernetes": "v1.37.2"})
    assert_described("/v1/version", "get", code, body)


def test_descriptions_are_served(served: Served) -> None:
    assert served.ask("GET", "/openapi.json") == (200, DESCRIPTION)
    assert served.ask("GET", "/status.schema.json") == (200, schema.load("status"))


@pytest.mark.parametrize(
    ("query", "server"),
    [
        ("", None),
        ("?server=https://192.0.2.9:6443", "https://192.0.2.9:6443"),
        ("?server=https://[2001:db8::1]:6443", "https://[2001:db8::1]:6443"),
    ],
)
def test_kubeconfig(served: Served, query: str, server: str | None) -> None:
    code, text = served.ask("GET", f"/v1/kubeconfig{query}")
    assert (code, served.node.asked) == (200, [server])
    assert text == f"server: {server or 'https://192.0.2.7:6443'}\n"


@pytest.mark.parametrize(
    "server",
    [
        "http://x",
        "x",
        "https://",
        "https://u:p@x",
        "https://x:0x1",
        "https://x/%0A",
        "https://x?y",
        "https://a+b%0Ac",
    ],
)
def test_kubeconfig_wants_a_url(served: Served, server: str) -> None:
    code, body = served.ask("GET", f"/v1/kubeconfig?server={server}")
    assert (code, body["failures"][0]["path"], served.node.asked) == (400, "server", [])
    assert_described("/v1/kubeconfig", "get", code, body)


def test_not_yet_is_no_error_of_ours(served: Served) -> None:
    served.node.has_authority = False
    code, body = served.ask("GET", "/v1/kubeconfig")
    assert (code, body["failures"][0]["code"]) == (503, "not-yet")
    assert_described("/v1/kubeconfig", "get", code, body)


@pytest.mark.parametrize(
    ("document", "paths"),
    [
        (b"basalt:\n  version: 1\n  role: control-plane\n", []),
        (b"basalt:\n  version: 1\n  role: master\n", ["basalt.role"]),
        (b"\xff", ["request"]),
        (b"", ["request"]),
    ],
)
def test_validate(served: Served, document: bytes, paths: list[str]) -> None:
    code, body = served.ask("POST", "/v1/validate", document)
    assert code == 200
    assert [failure["path"] for failure in body["failures"]] == paths
    assert_described("/v1/validate", "post", code, body)


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "name"),
    [
        ("GET", "/nothing", None, 404, "not-found"),
        ("GET", "/v1/../../etc/passwd", None, 404, "not-found"),
        ("POST", "/v1/status", b"", 405, "method-not-allowed"),
        ("GET", "/v1/validate", None, 405, "method-not-allowed"),
        ("POST", "/v1/validate", b"x" * (1024 * 1024 + 1), 413, "request-too-large"),
        ("GET", "/v1/logs", None, 400, "bad-request"),
        ("GET", "/v1/logs?component=sshd", None, 400, "bad-request"),
        ("GET", "/v1/logs?component=kubelet&lines=-1", None, 400, "bad-request"),
        ("GET", "/v1/logs?component=kubelet&lines=10001", None, 400, "bad-request"),
        ("GET", "/v1/logs?component=kubelet&lines=" + "9" * 400, None, 400, "bad-request"),
        ("GET", "/v1/logs?component=kubelet&follow=yes", None, 400, "bad-request"),
    ],
)
def test_errors_have_one_form(
    served: Served, method: str, path: str, body: bytes | None, code: int, name: str
) -> None:
    got, answer = served.ask(method, path, body)
    assert (got, [failure["code"] for failure in answer["failures"]]) == (code, [name])
    jsonschema.validate(answer, resolve(DESCRIPTION["components"]["schemas"]["Failures"]))
    assert all(failure["found"] and failure["remedy"] for failure in answer["failures"])


def test_a_bug_shows_no_traceback(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    served.node.steps = None  # type: ignore[assignment]
    code, body = served.ask("GET", "/v1/plan")
    assert (code, body["failures"][0]["code"]) == (500, "internal-error")
    assert "TypeError" not in json.dumps(body) and "TypeError" in caplog.text


def test_the_socket_is_for_its_owner_only(served: Served) -> None:
    mode = served.socket.stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600


def test_the_peer_is_asked_who_it_is(tmp_path: Path) -> None:
    with loop_in_thread() as run:
        server = ApiServer(MadeUpNode(), users=(os.getuid() + 1,))
        run(server.listen_local(tmp_path / "api.sock"))
        with pytest.raises(BasaltError, match="only root may use this socket"):
            Client(Endpoint(socket=tmp_path / "api.sock")).get_json("/v1/status")
        run(server.close())


def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run" / "api.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with loop_in_thread() as run:
        server = ApiServer(MadeUpNode(), users=(os.getuid(),))
        run(server.listen_local(path))
        run(server.listen_local(path))
        assert Client(Endpoint(socket=path)).get_json("/v1/status") == READY.to_dict()
        run(server.close())


@pytest.mark.parametrize("units", logs.UNITS.values())
def test_components_have_units(units: tuple[str, ...]) -> None:
    for unit in units:
        if not re.match(r"cloud-|systemd-", unit):
            assert (UNITS / unit).is_file()


JOURNAL = """#!/bin/sh
echo "$@"
case "$*" in *--follow*) echo $$ > "$BASALT_TEST_PID"; exec sleep 60 ;; esac
"""


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a journalctl into PATH that prints its arguments, and that follows without an end."""
    program = tmp_path / "bin" / "journalctl"
    program.parent.mkdir()
    program.write_text(JOURNAL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("BASALT_TEST_PID", str(tmp_path / "pid"))
    return tmp_path / "pid"


@pytest.mark.parametrize(
    ("query", "arguments"),
    [
        ("component=kubelet", "--lines=100 --unit=kubelet.service"),
        ("component=basalt&lines=5&follow=false", "--lines=5 --unit=basalt.service"),
    ],
)
def test_logs_ask_the_journal_of_one_component(
    served: Served, journal: Path, query: str, arguments: str
) -> None:
    code, text = served.ask("GET", f"/v1/logs?{query}")
    assert (code, text) == (200, f"--no-pager --quiet --output=short-iso {arguments}\n")


def test_a_followed_journal_ends_with_its_reader(served: Served, journal: Path) -> None:
    stream = served.local().stream("/v1/logs", {"component": "kubelet", "follow": "true"}, 10)
    assert b"--follow" in next(stream)
    until(lambda: journal.exists() and journal.read_text().endswith("\n"))
    process = Path("/proc") / journal.read_text().strip()
    assert process.exists()
    stream.close()
    until(lambda: not process.exists())


def test_only_so_many_journals_at_once(served: Served, journal: Path) -> None:
    query = {"component": "kubelet", "follow": "true"}
    streams = [served.local().stream("/v1/logs", query, 10) for _ in range(app.STREAMS)]
    assert all(next(stream) for stream in streams)
    with pytest.raises(BasaltError, match="8 journals are being read already"):
        next(served.local().stream("/v1/logs", query, 10))
    for stream in streams:
        stream.close()


def test_status_follows_the_node(served: Served) -> None:
    served.node.current = DEGRADED
    assert served.local().get_json("/v1/status")["phase"] == Phase.DEGRADED


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
