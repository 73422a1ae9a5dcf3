# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import stat
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from firstboot import schema
from firstboot.api import app, logs
from firstboot.api.access import Tls
from firstboot.api.node import PlannedStep
from firstboot.api.server import ApiServer
from firstboot.client import Client, Endpoint, UnixConnection, Unreachable
from firstboot.failure import BasaltError
from firstboot.report.status import Phase
from tests.unit.support_web import DEGRADED, READY, Authority, MadeUpNode, loop_in_thread

UNITS = Path(__file__).parents[2] / "overlays/usr/lib/systemd/system"
DESCRIPTION: dict[str, Any] = json.loads(app.description())


@dataclass
class Served:
    node: MadeUpNode
    server: ApiServer
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    socket: Path

    def local(self) -> Client:
        return Client(Endpoint(socket=self.socket))

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """Return HTTP status and body, parsed where it is JSON; no header may tell what serves it."""
        with closing(UnixConnection(self.socket)) as connection:
            connection.request(method, path, body)
            response = connection.getresponse()
            text = response.read().decode()
            assert "Server" not in response.headers
            is_json = response.headers["Content-Type"].startswith("application/json")
            return response.status, json.loads(text) if is_json else text


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    node = MadeUpNode()
    with loop_in_thread() as run:
        server = ApiServer(node, users=(os.getuid(),))
        run(server.listen_local(tmp_path / "api.sock"))
        yield Served(node, server, run, tmp_path / "api.sock")
        run(server.close())


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Authority]:
    folder = tmp_path_factory.mktemp("pki")
    root = Authority.make(folder, "company")
    return {
        "cluster": Authority.make(folder, "cluster"),
        "admin": Authority.make(folder, "admin"),
        "other": Authority.make(folder, "other"),
        "company": root,
        "team": Authority.make(folder, "team", root),
    }


@pytest.fixture
def tls(authorities: dict[str, Authority]) -> Tls:
    return Tls(*authorities["cluster"].issue("node", server=True), (authorities["admin"].pem,))


def remote(served: Served, authorities: dict[str, Authority], name: str, days: int = 1) -> Client:
    certificate, key = authorities[name].issue("client", days=days)
    url = f"https://127.0.0.1:{served.server.port}"
    return Client(Endpoint(url, certificate, key, authorities["cluster"].file))


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


def test_tls_lets_in_who_has_the_right_certificate(
    served: Served, tls: Tls, authorities: dict[str, Authority]
) -> None:
    served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
    assert remote(served, authorities, "admin").get_json("/v1/status") == READY.to_dict()


@pytest.mark.parametrize(("name", "days"), [("other", 1), ("cluster", 1), ("admin", -5)])
def test_tls_refuses_others(
    served: Served, tls: Tls, authorities: dict[str, Authority], name: str, days: int
) -> None:
    served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
    with pytest.raises(Unreachable, match="closed the connection without an answer") as raised:
        remote(served, authorities, name, days).get_json("/v1/status")
    assert "access.client-ca" in raised.value.hint


def test_tls_refuses_clients_without_a_certificate(
    served: Served, tls: Tls, authorities: dict[str, Authority]
) -> None:
    served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
    context = ssl.create_default_context(cafile=str(authorities["cluster"].file))
    with closing(http.client.HTTPSConnection("127.0.0.1", served.server.port, context=context)) as connection:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            connection.request("GET", "/v1/status")
            connection.getresponse()


def test_tls_refuses_old_protocols(served: Served, tls: Tls, authorities: dict[str, Authority]) -> None:
    served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
    context = ssl.create_default_context(cafile=str(authorities["cluster"].file))
    context.load_cert_chain(*authorities["admin"].issue("client"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", served.server.port or 0), 10) as sock:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(sock, server_hostname="127.0.0.1")


def test_a_server_certificate_does_not_administer(
    served: Served, tls: Tls, authorities: dict[str, Authority]
) -> None:
    served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
    certificate, key = authorities["admin"].issue("web", server=True)
    url = f"https://127.0.0.1:{served.server.port}"
    with pytest.raises(Unreachable, match="closed the connection without an answer"):
        Client(Endpoint(url, certificate, key, authorities["cluster"].file)).get_json("/v1/status")


def test_an_intermediate_authority_is_enough(
    served: Served, tls: Tls, authorities: dict[str, Authority]
) -> None:
    served.run(served.server.listen_tls(replace(tls, client_cas=(authorities["team"].pem,)), "127.0.0.1:0"))
    assert remote(served, authorities, "team").get_json("/v1/version")["api"] == "v1"
    with pytest.raises(Unreachable, match="closed the connection"):
        remote(served, authorities, "company").get_json("/v1/version")


def test_new_authorities_count_at_once_and_close_old_connections(
    served: Served, tls: Tls, authorities: dict[str, Authority]
) -> None:
    served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
    port = served.server.port
    context = ssl.create_default_context(cafile=str(authorities["cluster"].file))
    context.load_cert_chain(*authorities["admin"].issue("client"))
    with closing(http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)) as old:
        old.request("GET", "/v1/version")
        old.getresponse().read()
        served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
        old.request("GET", "/v1/version")
        assert old.getresponse().read(), "nothing changed, so the connection stays"
        served.run(
            served.server.listen_tls(replace(tls, client_cas=(authorities["other"].pem,)), "127.0.0.1:0")
        )
        assert served.server.port == port
        assert old.sock.recv(1) == b""
    assert remote(served, authorities, "other").get_json("/v1/version")["api"] == "v1"
    with pytest.raises(Unreachable, match="closed the connection"):
        remote(served, authorities, "admin").get_json("/v1/version")


@pytest.mark.parametrize(
    "pem", ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_bad_authorities_change_nothing(
    served: Served, tls: Tls, authorities: dict[str, Authority], pem: str
) -> None:
    served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
    with pytest.raises(BasaltError, match="client CA cannot be used"):
        served.run(served.server.listen_tls(replace(tls, client_cas=(pem,)), "127.0.0.1:0"))
    assert remote(served, authorities, "admin").get_json("/v1/version")["api"] == "v1"


def test_missing_certificates_are_named(served: Served, tls: Tls, tmp_path: Path) -> None:
    with pytest.raises(BasaltError, match=f"{tmp_path}/none.key cannot be read: No such file"):
        served.run(served.server.listen_tls(replace(tls, key=tmp_path / "none.key"), "127.0.0.1:0"))


def test_closed_is_closed(served: Served, tls: Tls, authorities: dict[str, Authority]) -> None:
    served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
    client = remote(served, authorities, "admin")
    served.run(served.server.close_tls())
    with pytest.raises(BasaltError, match="Connection refused"):
        client.get_json("/v1/version")
    served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
    assert remote(served, authorities, "admin").get_json("/v1/version")["api"] == "v1"


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
