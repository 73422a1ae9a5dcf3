# SPDX-License-Identifier: Apache-2.0
"""The cluster's settings over a real socket, by the API and by the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from firstboot import cli, cli_settings
from firstboot.api.access import Tls
from firstboot.api.node import NotYet
from firstboot.api.server import ApiServer
from firstboot.client import Endpoint
from firstboot.cluster.steward import ANNOTATION, Steward
from firstboot.failure import DocumentError

from .support_web import Authority, MadeUpNode, Served, loop_in_thread, serve
from .test_api import assert_described
from .test_cluster_settings import ADDRESS, BACKEND, FIRST, UPSTREAM, Api


@dataclass
class Node:
    """A control plane and its API; main: the command line on it."""

    api: Api
    served: Served
    main: Callable[..., int]
    events: list[str]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    api, events = Api(FIRST), list[str]()
    with serve(tmp_path / "api.sock") as served:
        served.node.steward = Steward(api, may=lambda: None, changed=lambda: events.append("changed"))
        monkeypatch.setattr(Endpoint.__init__, "__defaults__", (None, None, None, None, False, served.socket))
        yield Node(api, served, lambda *arguments: cli.main([*map(str, arguments)]), events)


def ask(node: Node, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Ask, and hold the answer against the description."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    code, answer = node.served.ask(method, path, data)
    assert_described(path.partition("?")[0], method.lower(), code, answer)
    return code, answer


def test_what_is_set_can_be_read(node: Node) -> None:
    code, answer = ask(node, "GET", "/v1/settings")
    assert (code, answer["version"], answer["author"]) == (200, 1, "document of cp-1")
    assert (answer["settings"][BACKEND], answer["settings"][ADDRESS]) == ("vxlan", None)
    code, answer = ask(
        node, "PATCH", "/v1/settings?if-version=1", {BACKEND: "host-gw", UPSTREAM: ["192.0.2.53"]}
    )
    assert (code, answer["version"], len(answer["changes"])) == (200, 2, 2)
    assert node.events == ["changed"]
    code, answer = ask(node, "GET", "/v1/settings/history")
    assert [(each["version"], each["author"]) for each in answer["versions"]] == [
        (2, "root"),
        (1, "document of cp-1"),
    ]
    code, answer = ask(node, "POST", "/v1/settings/revert?version=1")
    assert (code, answer["version"]) == (200, 3)
    node.api.objects["/api/v1/nodes/cp-1"] = {"metadata": {"name": "cp-1", "annotations": {ANNOTATION: "2"}}}
    code, answer = ask(node, "GET", "/v1/settings/nodes")
    assert answer == {"version": 3, "nodes": [{"name": "cp-1", "version": 2}]}


@pytest.mark.parametrize(
    ("method", "query", "body", "status", "failure"),
    [
        ("PATCH", "", b"no JSON", 400, ("bad-request", "")),
        ("PATCH", "", [], 400, ("bad-request", "")),
        ("PATCH", "", {}, 400, ("bad-request", "")),
        ("PATCH", "?if-version=one", {BACKEND: "host-gw"}, 400, ("bad-request", "if-version")),
        ("PATCH", "?if-version=7", {BACKEND: "host-gw"}, 409, ("settings-changed", "")),
        ("PATCH", "", {"cluster.pod-cidr": "10.9.0.0/16"}, 422, ("fixed-setting", "cluster.pod-cidr")),
        ("PATCH", "", {BACKEND: {"a": [None]}}, 422, ("wrong-type", BACKEND)),
        ("POST", "/revert", None, 400, ("bad-request", "version")),
        ("POST", "/revert?version=-1", None, 400, ("bad-request", "version")),
        ("POST", "/revert?version=7", None, 409, ("version-unknown", "")),
    ],
)
def test_a_wrong_request_changes_nothing(
    node: Node, method: str, query: str, body: Any, status: int, failure: tuple[str, str]
) -> None:
    code, answer = ask(node, method, f"/v1/settings{query}", body)
    [found] = answer["failures"]
    assert (code, (found["code"], found["path"])) == (status, failure)
    assert node.api.newest == FIRST and node.events == []


def test_a_worker_changes_nothing(node: Node) -> None:
    def may() -> None:
        raise NotYet("a worker changes no settings", "Ask a control plane.")

    node.served.node.steward = Steward(node.api, may, lambda: None)
    for method, path in (("PATCH", "/v1/settings"), ("POST", "/v1/settings/revert?version=1")):
        code, answer = ask(node, method, path, {BACKEND: "host-gw"})
        assert (code, answer["failures"][0]["code"]) == (503, "not-yet")
    assert ask(node, "GET", "/v1/settings")[0] == 200


def test_before_there_are_settings_the_api_says_so(node: Node) -> None:
    node.api.objects.clear()
    code, answer = ask(node, "GET", "/v1/settings")
    assert (code, answer["failures"][0]["code"]) == (503, "not-yet")


def test_the_author_is_who_the_certificate_names(tmp_path: Path) -> None:
    authority, api, node = Authority.make(tmp_path, "ca"), Api(FIRST), MadeUpNode()
    node.steward = Steward(api, lambda: None, lambda: None)
    certificate, key = authority.issue("alice")
    with loop_in_thread() as run:
        server = ApiServer(node)
        run(server.listen_tls(Tls(*authority.issue("node", server=True), (authority.pem,)), "127.0.0.1:0"))
        options = ["--endpoint", f"https://127.0.0.1:{server.port}", "--cert", str(certificate)]
        options += ["--key", str(key), "--cacert", str(authority.file)]
        assert cli.main([*options, "set", f"{BACKEND}=host-gw"]) == 0
        run(server.close())
    assert api.newest.author == "alice"


def test_the_command_line_sets_and_shows(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        node.main("set", f"{UPSTREAM}=[192.0.2.53, '[2001:db8::1]:5353']", f"{ADDRESS}=api.example.org") == 0
    )
    assert capsys.readouterr().out.splitlines() == [
        "version 2",
        f"  {ADDRESS}: (default) -> api.example.org",
        f'  {UPSTREAM}: [] -> ["192.0.2.53", "[2001:db8::1]:5353"]',
    ]
    assert node.main("set", f"{ADDRESS}=api.example.org") == 0
    assert capsys.readouterr().out == "Nothing to change: version 2 has these values.\n"
    assert node.main("get", UPSTREAM) == 0
    assert json.loads(capsys.readouterr().out) == ["192.0.2.53", "[2001:db8::1]:5353"]
    assert node.main("get", "features.network") == 0
    assert capsys.readouterr().out == "features.network.enabled=true\nfeatures.network.backend=vxlan\n"
    assert node.main("get") == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("# version 2, made at 2") and first.endswith(" by root")
    assert f"{ADDRESS}=api.example.org" in lines and "datastore.type=dqlite" in lines
    assert node.main("set", *lines) == 0
    assert "Nothing to change" in capsys.readouterr().out, "what is shown can be set"
    assert node.main("set", f"{ADDRESS}=", f"{BACKEND}=host-gw", "--if-version", 2) == 0
    capsys.readouterr()
    assert node.main("get", ADDRESS, "--json") == 0
    assert capsys.readouterr().out == "null\n"
    assert node.main("set", "--revert", 1) == 0
    capsys.readouterr()
    assert node.main("get", "--history") == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["VERSION", "TIME", "AUTHOR", "CHANGE"]
    assert [row.split()[0] for row in rows] == ["4", "4", "3", "3", "2", "2", "1"]
    assert rows[-1].endswith("document of cp-1  -")
    for name, told in (("cp-1", {ANNOTATION: "4"}), ("w-1", {ANNOTATION: "3"}), ("w-2", {})):
        node.api.objects[f"/api/v1/nodes/{name}"] = {"metadata": {"name": name, "annotations": told}}
    assert node.main("get", "--nodes") == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["NODE", "VERSION", "NEWEST"],
        ["cp-1", "4", "yes"],
        ["w-1", "3", "no"],
        ["w-2", "-", "no"],
    ]
    for command in (["get"], ["get", "--history"], ["get", "--nodes"], ["set", f"{BACKEND}=vxlan"]):
        assert node.main(*command, "--json") == 0
        json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["set", "cluster.pod-cidr=10.9.0.0/16"], 2, "[fixed-setting]"),
        (["set", f"{BACKEND}=host-gw", "--if-version", "9"], 1, "[settings-changed]"),
        (["set"], 2, "Give KEY=VALUE, or --revert VERSION."),
        (["set", f"{BACKEND}=host-gw", "--revert", "1"], 2, "Give KEY=VALUE, or --revert VERSION."),
        (["set", BACKEND], 2, f"Write `{BACKEND}=VALUE`."),
        (["set", "a=1", "a=2"], 2, "[duplicate-key]"),
        (["set", "a=[1"], 2, "a: `[1` is no value in YAML [yaml-syntax]"),
        (["set", "a=!x y"], 2, "[bad-tag]"),
        (["set", "cluster.name=2026-01-01", f"{BACKEND}=vlan"], 2, "[not-a-choice]"),
        (["get", "features.dsn"], 2, "[unknown-key]"),
        (["get", "node.name"], 2, "[machine-setting]"),
        (["get", BACKEND, "--history"], 1, "Leave the key out."),
    ],
)
def test_the_command_line_says_what_is_wrong(
    node: Node, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert node.main(*arguments) == code
    assert message in capsys.readouterr().err
    assert node.api.newest == FIRST


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("a=true", True),
        ("a=12", 12),
        ("a=", None),
        ("a=''", ""),
        ("a=b=c", "b=c"),
        ("a=[]", []),
        ('a=["x", 1]', ["x", 1]),
        ("a={b: c}", {"b": "c"}),
        ("a=2026-01-01", "2026-01-01"),
    ],
)
def test_a_value_is_yaml(argument: str, value: object) -> None:
    assert json.loads(json.dumps(cli_settings.read([argument]), default=str)) == {"a": value}


def test_all_wrong_arguments_are_told() -> None:
    with pytest.raises(DocumentError) as raised:
        cli_settings.read(["a", "b=[", "c=1", "c=2"])
    assert [failure.path for failure in raised.value.failures] == ["a", "b", "c"]
