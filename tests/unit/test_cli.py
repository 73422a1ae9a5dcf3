# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from firstboot import cli
from firstboot.api.access import Tls
from firstboot.api.node import PlannedStep
from firstboot.api.server import ApiServer
from firstboot.client import Client, Endpoint, split_url
from firstboot.failure import BasaltError, DocumentError, Failure
from firstboot.report.status import Phase
from tests.unit.support_web import DEGRADED, READY, Authority, MadeUpNode, loop_in_thread

GOOD = "basalt:\n  version: 1\n  role: control-plane\n"
BAD = "basalt:\n  version: 1\n  role: master\n  nonsense: 1\n"


@dataclass
class Remote:
    """A node's API over TLS, and the options with which the command line reaches it."""

    node: MadeUpNode
    options: list[str]

    def main(self, *arguments: str) -> int:
        return cli.main([*self.options, *arguments])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("pki"), "ca")


@pytest.fixture
def remote(authority: Authority) -> Iterator[Remote]:
    node = MadeUpNode()
    certificate, key = authority.issue("client")
    with loop_in_thread() as run:
        server = ApiServer(node)
        run(server.listen_tls(Tls(*authority.issue("node", server=True), (authority.pem,)), "127.0.0.1:0"))
        options = ["--endpoint", f"https://127.0.0.1:{server.port}", "--cert", str(certificate)]
        yield Remote(node, [*options, "--key", str(key), "--cacert", str(authority.file)])
        run(server.close())


def test_status_for_people(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    assert remote.main("status") == 0
    out = capsys.readouterr().out
    assert "==== READY ====" in out and "kube-apiserver" in out and "\033" not in out


def test_status_for_programs(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    assert remote.main("status", "--json") == 0
    assert json.loads(capsys.readouterr().out) == READY.to_dict()


@pytest.mark.parametrize(
    ("phase", "wanted", "code", "message"),
    [
        (Phase.READY, "ready", 0, ""),
        (Phase.DEGRADED, "degraded", 0, ""),
        (Phase.STARTING, "ready", cli.EXIT_TIME, "not ready within 0.1 seconds: phase is starting"),
        (Phase.DOCUMENT_INVALID, "ready", cli.EXIT_PHASE, "the node will not become ready by itself"),
        (Phase.READY, "happy", 1, "there is no phase 'happy'"),
    ],
)
def test_wait(
    remote: Remote,
    capsys: pytest.CaptureFixture[str],
    phase: Phase,
    wanted: str,
    code: int,
    message: str,
) -> None:
    remote.node.current = replace(READY, phase=phase)
    assert remote.main("status", "--wait", wanted, "--timeout", "0.1") == code
    assert message in capsys.readouterr().err


def test_wait_sees_the_node_become_ready(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "POLL", 0.01)
    stages = iter([replace(READY, phase=Phase.STARTING), DEGRADED, READY])
    monkeypatch.setattr(remote.node, "status", lambda: next(stages))
    assert remote.main("status", "--wait", "ready", "--timeout", "20") == 0


def test_plan(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    remote.node.steps = [
        PlannedStep("hostname", "", "none", "as it should be"),
        PlannedStep("files:kubelet", "/run/basalt/args/kubelet.env", "write", "content differs\033[2J"),
    ]
    assert remote.main("plan") == 0
    assert capsys.readouterr().out.splitlines() == [
        "STEP           ACTION  PATH                          REASON",
        "files:kubelet  write   /run/basalt/args/kubelet.env  content differs?[2J",
    ]
    assert remote.main("plan", "--all") == 0
    assert "hostname" in capsys.readouterr().out
    assert remote.main("plan", "--json") == 0
    assert json.loads(capsys.readouterr().out)["steps"][0]["step"] == "hostname"


def test_a_plan_of_nothing_says_so(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    remote.node.steps = [PlannedStep("hostname", "", "none", "as it should be")]
    assert remote.main("plan") == 0
    assert capsys.readouterr().out.startswith("Nothing to do")


def test_certificates(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    assert remote.main("certificates") == 0
    assert capsys.readouterr().out.splitlines() == [
        "NAME     ENDS        RENEWED  SUBJECT        ISSUER         PROBLEM",
        "ca       2036-11-22  -        CN=kubernetes  CN=kubernetes",
        "kubelet  -           -        -              -              kubelet.crt is missing",
    ]
    assert remote.main("certificates", "--json") == 0
    assert json.loads(capsys.readouterr().out)["certificates"][0]["path"] == "/etc/kubernetes/pki/ca.crt"


def test_kubeconfig(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    assert remote.main("kubeconfig", "--server", "https://127.0.0.1:6443") == 0
    assert capsys.readouterr().out == "server: https://127.0.0.1:6443\n"
    remote.node.has_authority = False
    assert remote.main("kubeconfig") == 1
    assert capsys.readouterr().err == "basalt: there is no certificate yet\n  Ask again later.\n"


def test_logs(
    remote: Remote,
    capfdbinary: pytest.CaptureFixture[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = tmp_path / "journalctl"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert remote.main("logs", "kubelet", "-n", "7", "-f") == 0
    assert b"--lines=7 --follow --unit=kubelet.service" in capfdbinary.readouterr().out
    assert remote.main("logs", "sshd") == 1
    assert b"basalt: component: there is no component 'sshd'\n" in capfdbinary.readouterr().err


def test_remove_node_says_how_it_goes(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    assert remote.main("remove-node", "w-1", "--force", "--timeout", "2m") == 0
    assert capsys.readouterr().out == "w-1 gets no new pods\nw-1 is out\n"
    assert remote.node.asked == ["w-1 True 120"]


def test_remove_node_ends_with_what_to_do(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    found = Failure(
        "quorum-needed", "cp-1", "the datastore cannot do without cp-1\033[2J", "Bring back cp-2."
    )
    remote.node.trouble = DocumentError([found])
    assert remote.main("remove-node", "cp-1") == 1
    out, err = capsys.readouterr()
    assert out == "cp-1 gets no new pods\n"
    assert err == "basalt: the datastore cannot do without cp-1?[2J\n  Bring back cp-2.\n"
    assert remote.main("remove-node", "..") == 1
    assert "is no node's name" in capsys.readouterr().err
    assert remote.main("remove-node", "w-1", "--timeout", "soon") == 1
    assert "is no time" in capsys.readouterr().err


def test_a_removal_that_is_cut_off_is_no_success(
    remote: Remote, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Client, "post_lines", lambda *_: iter([{"step": "drain", "text": "1 pod"}]))
    assert remote.main("remove-node", "w-1") == 1
    assert "Run it again" in capsys.readouterr().err


def test_reset_has_to_be_meant(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    assert remote.main("reset") == 2
    err = capsys.readouterr().err
    assert "removes everything" in err and "--yes" in err and remote.node.asked == []
    assert remote.main("reset", "--yes") == 0
    assert capsys.readouterr().out.startswith("node-1 stops its services and powers off")
    remote.node.has_authority = False
    assert remote.main("reset", "--yes") == 1
    assert (
        capsys.readouterr().err
        == "basalt: reset: node-1 is a member of a cluster [reset-refused]. Remove it first.\n"
    )
    assert remote.main("reset", "--yes", "--force") == 0
    assert remote.node.asked == ["reset False", "reset True"]


def test_version(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    assert remote.main("version") == 0
    assert capsys.readouterr().out.splitlines()[1] == "node: basalt 1.2.3, kubernetes v1.37.2"


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("way", ["file", "stdin"])
@pytest.mark.parametrize(("text", "code"), [(GOOD, 0), (BAD, 2)])
def test_validate_needs_no_node(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    code: int,
    way: str,
    as_json: bool,
) -> None:
    file = tmp_path / "document.yaml"
    file.write_text(text)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    options = ["--json"] if as_json else []
    assert cli.main(["validate", *options, str(file) if way == "file" else "-"]) == code
    out, err = capsys.readouterr()
    if as_json:
        assert [failure["path"] for failure in json.loads(out)["failures"]] == (
            ["basalt.role", "basalt.nonsense"] if code else []
        )
        assert err == ""
    else:
        assert ("basalt.role" in err and "basalt.nonsense" in err) == bool(code)
        assert ("valid" in out) == (not code)


def test_validate_says_that_a_file_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(tmp_path / "none.yaml")]) == 2
    err = capsys.readouterr().err
    assert "none.yaml" in err and "Traceback" not in err


def test_other_failures_are_one_line_and_a_hint(
    remote: Remote, authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = remote.options[:2]
    (tmp_path / "junk").write_text("junk")
    certificate, key = (str(path) for path in authority.issue("client"))
    other = Authority.make(tmp_path, "other")
    stranger = [str(path) for path in other.issue("stranger")]
    cases: list[tuple[list[str], str, str]] = [
        (endpoint, "a node's API asks for a client certificate", "--cert"),
        (["--cert", certificate], "are for a node elsewhere", "--endpoint"),
        ([*endpoint, "--cert", str(tmp_path / "junk")], "cannot be used as --cert", "PEM"),
        ([*endpoint, "--cert", certificate, "--key", key], "is not trusted", "--cacert"),
        (
            [*endpoint, "--cert", certificate, "--key", key, "--cacert", str(other.file)],
            "is not trusted",
            "--cacert",
        ),
        (
            [*endpoint, "--cert", stranger[0], "--key", stranger[1], "--cacert", str(authority.file)],
            "closed the connection",
            "access.client-ca",
        ),
        (["--endpoint", "ftp://x", "--cert", certificate, "--key", key], "is no endpoint", "https://"),
        (
            ["--endpoint", "https://127.0.0.1:1", "--cert", certificate, "--key", key],
            "cannot be reached: Connection refused",
            "Is the node up",
        ),
    ]
    for options, message, hint in cases:
        assert cli.main([*options, "status"]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 2, lines
        assert lines[0].startswith("basalt: ") and message in lines[0]
        assert lines[1].startswith("  ") and hint in lines[1]


def test_insecure_does_not_check_the_node(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*remote.options[:6], "--insecure"]
    assert cli.main([*options, "version"]) == 0
    assert "node: basalt 1.2.3" in capsys.readouterr().out


def test_without_a_node_here_it_says_where_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = (None, None, None, None, False, tmp_path / "api.sock")
    monkeypatch.setattr(Endpoint.__init__, "__defaults__", here)
    assert cli.main(["status"]) == 1
    err = capsys.readouterr().err
    assert "no Basalt agent runs on this machine" in err and "--endpoint" in err


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "document.yaml"
    file.write_text(GOOD)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "firstboot.cli", "validate", str(file)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://192.0.2.7:6400", ("192.0.2.7", 6400)),
        ("https://node", ("node", 6400)),
        ("node:7000", ("node", 7000)),
        ("https://[2001:db8::7]:1/", ("2001:db8::7", 1)),
        ("http://node", None),
        ("https://node/path", None),
        ("https://node:x", None),
        ("", None),
    ],
)
def test_split_url(url: str, expected: tuple[str, int] | None) -> None:
    if expected:
        assert split_url(url) == expected
    else:
        with pytest.raises(BasaltError, match="is no endpoint"):
            split_url(url)
