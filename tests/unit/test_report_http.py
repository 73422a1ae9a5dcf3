# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from html.parser import HTMLParser

import pytest

from firstboot.failure import BasaltError, Failure
from firstboot.report import metrics, page
from firstboot.report.http import StatusServer
from firstboot.report.status import Document, Node, Part, State, Status
from firstboot.report.web import Limits, parse_address
from tests.unit.support_web import DEGRADED, READY, loop_in_thread

EVIL = "</td><script>alert('x')</script>\"&\033[2J"


@dataclass
class Served:
    current: Status
    port: int
    host: str = "127.0.0.1"

    @contextmanager
    def request(
        self, path: str, method: str = "GET", body: bytes | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        with closing(connection):
            connection.request(method, path, body)
            yield connection.getresponse()

    def get(self, path: str) -> tuple[int, str]:
        with self.request(path) as response:
            return response.status, response.read().decode()


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served(READY, 0)
    with loop_in_thread() as run:
        server = StatusServer(lambda: served.current)
        run(server.listen("127.0.0.1:0"))
        assert server.port
        served.port = server.port
        yield served
        run(server.close())


def test_status_is_the_document(served: Served) -> None:
    code, text = served.get("/v1/status")
    assert (code, json.loads(text)) == (200, READY.to_dict())


def test_health_and_readiness(served: Served) -> None:
    assert served.get("/healthz") == (200, "ok\n")
    assert served.get("/readyz") == (200, "ready\n")
    served.current = DEGRADED
    assert served.get("/healthz") == (200, "ok\n")
    code, reasons = served.get("/readyz")
    assert code == 503
    assert reasons.splitlines()[:2] == ["phase is degraded", "kubelet is failed: exit code 1"]


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/v1/status", "application/json"),
        ("/healthz", "text/plain; charset=utf-8"),
        ("/readyz", "text/plain; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/nothing", "text/plain; charset=utf-8"),
    ],
)
def test_headers(served: Served, path: str, content_type: str) -> None:
    with served.request(path) as response:
        assert response.headers["Content-Type"] == content_type
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert "Server" not in response.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/v1/status"])
def test_it_is_read_only(served: Served, method: str, path: str) -> None:
    with served.request(path, method, b"x") as response:
        assert response.status == 405


@pytest.mark.parametrize(
    "request_", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 9000 + b"\r\n\r\n"]
)
def test_malformed_requests_learn_nothing(served: Served, request_: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served.port), 10) as sock:
        sock.sendall(request_)
        answer = sock.recv(65536).decode()
    assert answer.startswith("HTTP/1.0 400") or answer.startswith("HTTP/1.1 400")
    assert not re.search("aiohttp|Python|Traceback", answer, re.IGNORECASE)


def test_connections_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firstboot.report.http.LIMITS", Limits(connections=2, lifetime=60, body=1024))
    with loop_in_thread() as run:
        server = StatusServer(lambda: READY)
        run(server.listen("127.0.0.1:0"))
        assert server.port
        request = Served(READY, server.port).request
        with request("/healthz") as one, request("/healthz") as two:
            assert (one.status, two.status) == (200, 200)
            with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
                request("/healthz").__enter__()
        run(server.close())


def test_a_connection_does_not_live_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firstboot.report.http.LIMITS", Limits(connections=9, lifetime=0.1, body=1024))
    with loop_in_thread() as run:
        server = StatusServer(lambda: READY)
        run(server.listen("127.0.0.1:0"))
        with socket.create_connection(("127.0.0.1", server.port), 10) as sock:
            with suppress(ConnectionResetError):
                assert sock.recv(1) == b""
        run(server.close())


def test_it_moves_and_stays_where_it_cannot() -> None:
    with loop_in_thread() as run:
        server = StatusServer(lambda: READY)
        run(server.listen("127.0.0.1:0"))
        with socket.create_server(("127.0.0.2", 0)) as taken:
            with pytest.raises(BasaltError, match="Address already in use"):
                run(server.listen(f"127.0.0.2:{taken.getsockname()[1]}"))
        assert Served(READY, server.port or 0).get("/healthz") == (200, "ok\n")
        run(server.listen("127.0.0.3:0"))
        assert Served(READY, server.port or 0, "127.0.0.3").get("/healthz") == (200, "ok\n")
        run(server.close())


def test_an_address_that_is_not_there_yet_is_fine() -> None:
    with loop_in_thread() as run:
        server = StatusServer(lambda: READY)
        run(server.listen("192.0.2.77:0"))
        run(server.listen("[2001:db8::77]:0"))
        assert server.address == "[2001:db8::77]:0"
        run(server.close())


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:9180", ("0.0.0.0", 9180)),
        ("[::]:9180", ("::", 9180)),
        ("9180", None),
        (":9180", None),
        ("::9180", None),
        ("host:99999", None),
        ("host:http", None),
    ],
)
def test_parse_address(text: str, address: tuple[str, int] | None) -> None:
    if address:
        assert parse_address(text) == address
    else:
        with pytest.raises(BasaltError, match="no address to listen on"):
            parse_address(text)


class Tags(HTMLParser):
    """Collects tags with their attributes, and checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def evil_status() -> Status:
    return replace(
        READY,
        node=Node(EVIL, EVIL, (EVIL,)),
        kubernetes=EVIL,
        components={EVIL: Part(State.FAILED, EVIL, EVIL)},
        failures=(Failure(EVIL, EVIL, EVIL, EVIL),),
        timings={EVIL: 1.0},
        document=Document(EVIL, EVIL),
        certificates={EVIL: "2027-01-01T00:00:00Z"},
        updated=EVIL,
    )


@pytest.mark.parametrize("status", [Status(), READY, DEGRADED, evil_status()])
def test_the_page_needs_nothing_else_and_holds_no_foreign_markup(status: Status) -> None:
    text = page.render(status)
    tags = Tags(text).seen
    names = {tag for tag, _attributes in tags}
    assert not names & {"script", "link", "img", "iframe", "form", "object"}
    assert "\033" not in text
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert links == ["v1/status", "metrics"]
    assert all(not name.startswith("on") for _tag, attributes in tags for name in attributes)


def test_the_page_is_accessible() -> None:
    tags = Tags(page.render(DEGRADED)).seen
    names = [tag for tag, _attributes in tags]
    assert dict(tags)["html"] == {"lang": "en"}
    assert names.count("h1") == names.count("main") == names.count("title") == 1
    assert names.count("caption") == names.count("table")
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")


def test_the_page_tells_failures_in_full() -> None:
    text = page.render(DEGRADED)
    for failure in DEGRADED.failures:
        assert {failure.path, failure.found, failure.code} <= set(re.findall(r">([^<>]+)<", text))
        assert failure.remedy in text


def test_the_policy_allows_just_this_style(served: Served) -> None:
    with served.request("/") as response:
        assert page.STYLE_HASH in response.headers["Content-Security-Policy"]
        assert f"<style>{page.STYLE}</style>" in response.read().decode()


SAMPLE = re.compile(r'basalt_[a-z_]+(\{([a-z]+="([^"\\\n]|\\["\\n])*",?)+\})? [0-9.e+-]+')


@pytest.mark.parametrize(
    "status", [Status(), READY, DEGRADED, replace(evil_status(), kubernetes='a"b\\c\nd')]
)
def test_metrics_have_the_form_prometheus_reads(status: Status) -> None:
    lines = metrics.render(status).splitlines()
    for line in lines:
        assert re.fullmatch(r"# (HELP|TYPE) basalt_[a-z_]+ .+", line) or SAMPLE.fullmatch(line), line
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize(
    "line",
    [
        'basalt_build_info{version="1.2.3",slot="A",kubernetes="v1.37.2"} 1',
        'basalt_node_info{node="node-1",role="control-plane"} 1',
        'basalt_phase{phase="degraded"} 1',
        'basalt_phase{phase="ready"} 0',
        'basalt_component_state{component="kubelet",state="failed"} 1',
        'basalt_component_state{component="kubelet",state="healthy"} 0',
        'basalt_feature_state{feature="dns",state="off"} 1',
        "basalt_failures 1",
        "basalt_settings_version 3",
        'basalt_ca_rotation_stage{stage="trust"} 1',
        "basalt_ca_rotation_nodes_behind 1",
        'basalt_milestone_seconds{milestone="ready"} 41.25',
        'basalt_certificate_expiry_timestamp_seconds{certificate="apiserver"} 1826960400',
    ],
)
def test_metrics(line: str) -> None:
    assert line in metrics.render(DEGRADED).splitlines()
