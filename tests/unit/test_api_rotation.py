# SPDX-License-Identifier: Apache-2.0
"""The rotation of the cluster's CA over a real socket, by the API and by the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from firstboot import cli, pki
from firstboot.api.node import NotYet
from firstboot.client import Endpoint
from firstboot.cluster import rotation
from firstboot.cluster.rotation import ANNOTATION, Found, Stage
from firstboot.cluster.rotator import Rotator
from firstboot.config import Config
from firstboot.pki.catalogue import catalogue
from firstboot.pki.verdict import Ledger

from .support_pki import Company
from .support_rotation import Api
from .support_web import Served, serve
from .test_api import assert_described

URL = "/v1/certificates/rotate-ca"
NODES = ("cp-1", "w-1")
OWN = Company.make("Company CA")


@dataclass
class Node:
    """A control plane and its API; main: the command line on it."""

    api: Api
    served: Served
    main: Callable[..., int]
    pki: Path

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """Ask, and hold the answer against the description."""
        code, answer = self.served.ask(method, path, body)
        assert_described(path.partition("?")[0], method.lower(), code, answer)
        return code, answer

    def reach(self, stage: Stage, *names: str) -> None:
        """Have nodes say that they are through with a stage."""
        found = self.found.rotation
        for name in names:
            self.api.objects[f"/api/v1/nodes/{name}"]["metadata"]["annotations"] = {
                ANNOTATION: found.says(stage)
            }

    def sign(self) -> None:
        """Have the new authority sign."""
        before = self.found
        assert asyncio.run(rotation.put(self.api, before.rotation.at(Stage.SIGN), before))

    @property
    def found(self) -> Found:
        found = asyncio.run(rotation.read(self.api))
        assert found is not None
        return found


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kubernetes")
    made = catalogue(Config.from_dict({"role": "control-plane"}), "cp-1", ["192.0.2.1"], root).unowned()
    pki.apply(made, Ledger())
    return root


@pytest.fixture
def node(authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    described = catalogue(
        Config.from_dict({"role": "control-plane"}), "cp-1", ["192.0.2.1"], authority
    ).unowned()
    api = Api()
    for name in NODES:
        api.objects[f"/api/v1/nodes/{name}"] = {"metadata": {"name": name}}
    with serve(tmp_path / "api.sock") as served:
        ca = described.authority("ca")
        served.node.rotating = Rotator(api, lambda: ca, lambda: None, lambda: None, lambda: None)
        monkeypatch.setattr(Endpoint.__init__, "__defaults__", (None, None, None, None, False, served.socket))
        yield Node(api, served, lambda *arguments: cli.main([*map(str, arguments)]), authority / "pki")
    for left in (authority / "pki").glob("ca-??????????.key"):
        left.unlink()


def test_it_begins_goes_on_and_ends(node: Node) -> None:
    code, told = node.ask("POST", f"{URL}?dry-run=true")
    assert (code, told["stage"], told["behind"], node.api.stage()) == (200, "trust", ["cp-1", "w-1"], None)
    code, told = node.ask("POST", URL)
    assert (code, told["author"], told["vouched"]) == (200, "root", True)
    assert told["old"]["subject"] == "CN=kubernetes"
    assert told["new"]["subject"] == f"OU={told['begun']},CN=kubernetes"
    assert (node.pki / f"ca-{told['id']}.key").exists()
    assert node.ask("POST", URL)[1]["failures"][0]["code"] == "rotation-refused"
    node.reach(Stage.TRUST, "cp-1")
    code, listed = node.ask("GET", "/v1/certificates")
    assert (code, listed["rotation"]["behind"]) == (200, ["w-1"])
    assert {each["name"]: each["stage"] for each in listed["rotation"]["nodes"]} == {
        "cp-1": "trust",
        "w-1": None,
    }
    assert node.ask("POST", f"{URL}/finish")[0] == 409
    node.sign()
    node.reach(Stage.SIGN, "cp-1")
    code, answer = node.ask("POST", f"{URL}/finish")
    assert (code, [(each["code"], each["path"]) for each in answer["failures"]]) == (
        409,
        [("rotation-behind", "w-1")],
    )
    assert node.ask("POST", f"{URL}/cancel")[0] == 409
    code, told = node.ask("POST", f"{URL}/finish?without=w-1")
    assert (code, told["stage"]) == (200, "done")


def test_it_is_taken_back(node: Node) -> None:
    assert node.ask("POST", f"{URL}/cancel")[0] == 409
    node.ask("POST", URL)
    code, told = node.ask("POST", f"{URL}/cancel")
    assert (code, told["stage"], node.api.stage()) == (200, "trust", None)


@pytest.mark.parametrize(
    ("query", "body", "status", "failure"),
    [
        ("?dry-run=maybe", None, 400, ("bad-request", "dry-run")),
        ("", b"no JSON", 400, ("bad-request", "")),
        ("", b"[]", 400, ("bad-request", "")),
        ("", b'{"certificate": 1, "key": 2}', 400, ("bad-request", "")),
        ("", b'{"certificate": "x", "key": 2}', 400, ("bad-request", "")),
        ("", json.dumps({"certificate": OWN.pem}).encode(), 422, ("bad-key", "key")),
        ("", json.dumps({"certificate": OWN.pem, "key": "s3cret"}).encode(), 422, ("bad-key", "key")),
    ],
)
def test_a_wrong_request_changes_nothing(
    node: Node, query: str, body: bytes | None, status: int, failure: tuple[str, str]
) -> None:
    code, answer = node.ask("POST", f"{URL}{query}", body)
    [found] = answer["failures"]
    assert (code, (found["code"], found["path"])) == (status, failure)
    assert "s3cret" not in str(answer) and node.api.stage() is None


def test_a_worker_replaces_no_ca(node: Node) -> None:
    def may() -> None:
        raise NotYet("a worker replaces no CA", "Ask a control plane.")

    assert node.served.node.rotating is not None
    node.served.node.rotating.may = may
    for path in (URL, f"{URL}/request", f"{URL}/finish", f"{URL}/cancel"):
        code, answer = node.ask("POST", path)
        assert (code, answer["failures"][0]["code"]) == (503, "not-yet")
    assert node.ask("GET", "/v1/certificates")[0] == 200


def test_the_command_says_what_it_would_do(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert node.main("certificates", "rotate-ca") == cli.EXIT_USAGE
    told = capsys.readouterr()
    assert told.out == "" and node.api.stage() is None
    for word in (
        "CN=kubernetes (ends 20",
        "trust  2 nodes",
        "has to be on",
        "vouches for the new one",
        "Say --yes",
    ):
        assert word in told.err


def test_the_commands(node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ca.crt").write_text(OWN.pem)
    (tmp_path / "ca.key").write_text(OWN.key_pem)
    brought = ("--ca", tmp_path / "ca.crt", "--key", tmp_path / "ca.key")
    assert node.main("certificates", "rotate-ca", "--yes", *brought) == 0
    assert "It signs by itself as soon as they all do" in capsys.readouterr().out
    node.reach(Stage.TRUST, "cp-1")
    assert node.main("certificates") == 0
    out = capsys.readouterr().out
    assert "is being replaced by CN=Company CA (ends 20" in out and "It is waited for w-1." in out
    assert out.splitlines()[-3:] == ["NODE  THROUGH WITH", "cp-1  trust", "w-1   -"]
    assert node.main("certificates", "rotate-ca", "--finish") == 1
    assert "[rotation-refused]" in capsys.readouterr().err
    node.sign()
    node.reach(Stage.SIGN, "cp-1")
    assert node.main("certificates", "rotate-ca", "--finish") == 1
    assert "w-1: does not say yet" in capsys.readouterr().err
    node.reach(Stage.SIGN, "w-1")
    assert node.main("certificates") == 0
    assert "All nodes are through" in capsys.readouterr().out
    assert node.main("certificates", "rotate-ca", "--finish", "--without", "w-1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["stage"] == "done"
    node.reach(Stage.DONE, *NODES)
    assert node.main("certificates") == 0
    assert "THROUGH" not in capsys.readouterr().out, "there is nothing more to be told"
    assert node.main("certificates", "rotate-ca", "--yes") == 0
    assert node.main("certificates", "rotate-ca", "--cancel") == 0
    assert "It has signed nothing" in capsys.readouterr().out


def test_the_commands_for_one_that_another_signs(
    node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert node.main("certificates", "rotate-ca", "--request") == 0
    asked, told = capsys.readouterr()
    assert "The key stays on this control plane" in told
    assert node.main("certificates", "rotate-ca", "--request", "--json") == 0
    assert json.loads(capsys.readouterr().out)["request"].startswith("-----BEGIN CERTIFICATE REQUEST")
    (tmp_path / "ca.crt").write_text(Company.signed(asked, Company.make("Company Root")))
    assert node.main("certificates", "rotate-ca", "--ca", tmp_path / "ca.crt", "--yes") == 0
    assert "It signs by itself" in capsys.readouterr().out and node.api.stage() is Stage.TRUST


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--without", "w-1"), "--without goes with --finish"),
        (("--key", "ca.key"), "--key with --ca"),
        (("--finish", "--ca", "ca.crt"), "--ca goes with the beginning"),
        (("--request", "--ca", "ca.crt"), "--ca goes with the beginning"),
        (("--ca", "/nowhere/ca.crt", "--key", "/nowhere/ca.key"), "/nowhere/ca.crt cannot be read"),
    ],
)
def test_arguments_that_do_not_go_together(
    node: Node, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert node.main("certificates", "rotate-ca", *arguments) == 1
    assert words in capsys.readouterr().err and node.api.stage() is None
