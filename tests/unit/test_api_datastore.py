# SPDX-License-Identifier: Apache-2.0
"""The datastore over a real socket, by the API and by the command line."""

from __future__ import annotations

import io
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from firstboot import cli, client
from firstboot.backup import locks
from firstboot.backup.locks import Passphrase, PrivateKey, Sealer
from firstboot.backup.making import Taken
from firstboot.backup.sealed import Sealed
from firstboot.client import Endpoint
from firstboot.datastores.store import Member
from firstboot.failure import BasaltError

from .support_datastore import AS_OF, REVISION, ControlPlane, answer
from .support_web import Served, serve
from .test_api import assert_described
from .test_backup_format import PRIVATE, PUBLIC

SECRET = "correct horse battery"
FORM = "multipart/form-data; boundary=b"


@dataclass
class Node:
    """A control plane and its API; main: the command line on it."""

    plane: ControlPlane
    served: Served
    main: Callable[..., int]

    def post(self, path: str, body: bytes, kind: str = "application/json") -> tuple[int, Any]:
        with closing(client.UnixConnection(self.served.socket)) as connection:
            connection.request("POST", path, body, {"Content-Type": kind})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ControlPlane:
    return ControlPlane.make(tmp_path_factory.mktemp("made") / "node")


@pytest.fixture
def node(made: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setattr(locks, "N", 2**4)
    monkeypatch.setattr(locks, "P", 1)
    plane = made.copied(tmp_path / "node")
    with serve(tmp_path / "api.sock") as served:
        served.node.keeper = plane.custodian
        monkeypatch.setattr(Endpoint.__init__, "__defaults__", (None, None, None, None, False, served.socket))
        yield Node(plane, served, lambda *arguments: cli.main(["datastore", *map(str, arguments)]))


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, Path]:
    content = {
        "passphrase": SECRET + "\n",
        "other": "another passphrase",
        "private": PRIVATE,
        "public": PUBLIC,
    }
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    return {name: tmp_path / name for name in content}


def opened(path: Path, opener: Any) -> bytes:
    found = Sealed.look(io.BytesIO(path.read_bytes()))
    return b"".join(found.plain(opener.open(found.header.lock)))


def test_status(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    code, body = node.served.ask("GET", "/v1/datastore")
    assert (code, body["type"], body["revision"]) == (200, "dqlite", REVISION)
    assert_described("/v1/datastore", "get", code, body)
    assert node.main("status") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"dqlite, 200000 bytes, revision {REVISION}",
        "MEMBER  ADDRESS         ROLE   LEADER  HEALTHY",
        "node-1  127.0.0.1:9000  voter  yes     yes",
    ]
    assert node.main("status", "--json") == 0
    assert json.loads(capsys.readouterr().out) == body


def test_status_of_an_etcd_that_somebody_else_runs(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    node.plane.store.members = [
        Member("", "https://192.0.2.5:2379", "voter", leader=True, healthy=True, version="3.7.3"),
        Member("", "https://192.0.2.6:2379", "unknown", leader=False, healthy=False),
    ]
    code, body = node.served.ask("GET", "/v1/datastore")
    assert_described("/v1/datastore", "get", code, body)
    assert node.main("status") == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["MEMBER", "ADDRESS", "ROLE", "LEADER", "HEALTHY", "VERSION"],
        ["-", "https://192.0.2.5:2379", "voter", "yes", "yes", "3.7.3"],
        ["-", "https://192.0.2.6:2379", "unknown", "no", "no", "-"],
    ]


def test_status_names_zones_and_those_that_must_not_be_lost(
    node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    racks = {"192.0.2.7": "rack-1", "192.0.2.8": "rack-2", "192.0.2.9": "rack-2"}
    node.plane.store.members = [Member("", f"{ip}:9000", "voter", ip == "192.0.2.7", None) for ip in racks]

    async def zones() -> dict[str, str]:
        return racks

    monkeypatch.setattr(node.served.node.keeper, "zones", zones)
    code, body = node.served.ask("GET", "/v1/datastore")
    assert_described("/v1/datastore", "get", code, body)
    assert node.main("status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:-1]] == ["ZONE", *racks.values()]
    assert lines[-1] == "without zone rack-2 too few voters would be left"


def test_backup_by_passphrase(
    node: Node, secrets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "cluster.backup"
    target.write_text("of yesterday")
    assert node.main("backup", target, "--passphrase-file", secrets["passphrase"]) == 0
    size, digest = target.stat().st_size, target.read_text("latin-1").splitlines()[-1]
    assert capsys.readouterr().out.splitlines() == [
        f"{target}: {size} bytes, cluster basalt, revision {REVISION}",
        digest,
    ]
    assert target.stat().st_mode & 0o777 == 0o600
    assert b"snapshot" in opened(target, Passphrase(SECRET))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_backup_for_a_recipient(node: Node, secrets: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "cluster.backup"
    assert node.main("backup", target, "--recipient", secrets["public"]) == 0
    assert b"snapshot" in opened(target, PrivateKey.of(PRIVATE))


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"", ""),
        (b"{}", ""),
        (b"[1]", ""),
        (b'{"passphrase": 1}', ""),
        (b'{"passphrase": "x", "recipient": "y"}', ""),
        (b'{"secret": "correct horse battery"}', ""),
        (b'{"passphrase": "short-secret"}'[:-5] + b'"}', "passphrase"),
        (b'{"recipient": "no key"}', "recipient"),
    ],
)
def test_a_backup_wants_one_secret(node: Node, body: bytes, path: str) -> None:
    code, answer = node.post("/v1/datastore/backup", body)
    (failure,) = answer["failures"]
    assert (code, failure["code"], failure["path"]) == (400, "bad-request", path)
    assert "short" not in json.dumps(answer)
    assert_described("/v1/datastore/backup", "post", code, answer)


def test_a_backup_that_breaks_off_is_not_kept(
    node: Node,
    secrets: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    genuine = node.plane.custodian.backup

    @asynccontextmanager
    async def breaking(sealer: Sealer) -> AsyncIterator[Taken]:
        async with genuine(sealer) as taken:

            def pieces() -> Iterator[bytes]:
                yield next(taken.sealed)
                raise OSError(5, "Input/output error")

            yield Taken(taken.header, pieces())

    keeper = node.plane.custodian
    monkeypatch.setattr(keeper, "backup", breaking)
    node.served.node.keeper = keeper
    target = tmp_path / "cluster.backup"
    assert node.main("backup", target, "--passphrase-file", secrets["passphrase"]) == 1
    err = capsys.readouterr().err
    assert "too early" in err and "Traceback" not in err
    assert not target.exists() and not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_file_that_is_not_whole_gets_no_name(tmp_path: Path) -> None:
    from firstboot.cli_datastore import receive

    with pytest.raises(BasaltError, match="ends too early or is damaged"):
        receive([b"x" * 500], tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BasaltError, match="cannot be written"):
        receive([], tmp_path / "none/file")


def test_restore(
    node: Node, secrets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "cluster.backup"
    assert node.main("backup", target, "--recipient", secrets["public"]) == 0
    assert node.main("restore", target, "--key", secrets["private"]) == 1
    assert "--yes" in capsys.readouterr().err and node.plane.woken == []
    assert node.main("restore", target, "--key", secrets["private"], "--yes") == 0
    assert "The node becomes cluster basalt as of 2" in capsys.readouterr().out
    assert node.plane.woken == ["decided"] and node.plane.places.decided.exists()
    assert node.main("restore", target, "--key", secrets["private"], "--yes") == 1
    assert (
        "datastore: a backup is being restored, or the datastore recovered or moved [busy]"
        in capsys.readouterr().err
    )


def test_recovery(node: Node, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch)
    node.plane.joined_by("192.0.2.8", "192.0.2.9")
    assert node.main("recover", "--yes") == 1
    assert "[has-quorum]" in capsys.readouterr().err
    node.plane.store.down = True
    told = [
        f"data of this member: revision {REVISION}, as of {AS_OF}",
        "end of its log: term 7, index 98123",
        "MEMBER     ROLE   WHAT BECOMES OF IT",
        "192.0.2.7  voter  this one: goes on alone",
        "192.0.2.8  voter  lost",
        "192.0.2.9  voter  lost",
    ]
    assert node.main("recover") == 2
    out, err = capsys.readouterr()
    assert out.splitlines() == told and "Say --yes to do it." in err
    assert node.main("recover", "--json") == 2
    shown = json.loads(capsys.readouterr().out)
    assert "decided" not in node.plane.woken
    for path, code in (("?dry-run=true", 200), ("", 202)):
        found, body = node.served.ask("POST", f"/v1/datastore/recover{path}")
        assert (found, body) == (code, shown)
        assert_described("/v1/datastore/recover", "post", found, body)
    assert node.plane.woken[-1] == "decided" and node.plane.places.decided.exists()
    node.plane.places.decided.unlink()
    assert node.main("recover", "--yes") == 0
    out = capsys.readouterr().out
    assert out.startswith("\n".join(told)) and "basalt remove-node NAME --force" in out
    code, body = node.served.ask("POST", "/v1/datastore/recover?dry-run=maybe")
    assert (code, body["failures"][0]["path"]) == (400, "dry-run")


def test_a_large_backup_goes_both_ways(node: Node, secrets: dict[str, Path], tmp_path: Path) -> None:
    """Larger than any other request may be, and than what a connection holds at once."""
    (node.plane.store.folder / "data").write_bytes(random.randbytes(5_000_000))
    target = tmp_path / "cluster.backup"
    assert node.main("backup", target, "--recipient", secrets["public"]) == 0
    assert node.main("restore", target, "--key", secrets["private"], "--yes") == 0
    built = node.plane.root / ".k8s-dqlite.restored/data"
    assert built.read_bytes() == (node.plane.store.folder / "data").read_bytes()


def test_a_restore_by_program(node: Node, secrets: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "cluster.backup"
    assert node.main("backup", target, "--passphrase-file", secrets["passphrase"]) == 0
    body = form({"passphrase": SECRET.encode(), "backup": target.read_bytes()})
    code, answer = node.post("/v1/datastore/restore", body, FORM)
    assert (code, answer["revision"]) == (202, REVISION)
    assert_described("/v1/datastore/restore", "post", code, answer)


def test_refusals_say_why(
    node: Node, secrets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "cluster.backup"
    assert node.main("backup", target, "--passphrase-file", secrets["passphrase"]) == 0
    capsys.readouterr()

    def refusal(*options: object) -> str:
        assert node.main("restore", target, *options, "--yes") == 1
        err = capsys.readouterr().err
        assert SECRET not in err and "Traceback" not in err and "another passphrase" not in err
        return err

    assert "[backup-key]" in refusal("--passphrase-file", secrets["other"])
    assert "[backup-key]" in refusal("--key", secrets["private"])
    assert "cannot be read" in refusal("--passphrase-file", tmp_path / "none")
    node.plane.joined_by("192.0.2.8")
    assert "[not-alone]" in refusal("--passphrase-file", secrets["passphrase"])
    target.write_bytes(b"x" * 30_000_000)
    assert "[not-alone]" in refusal("--passphrase-file", secrets["passphrase"]), "the body need not be read"


def form(parts: dict[str, bytes]) -> bytes:
    body = b""
    for name, content in parts.items():
        body += b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), content)
    return body + b"--b--\r\n"


@pytest.mark.parametrize(
    ("body", "kind", "path"),
    [
        (b"x", "application/json", ""),
        (b"x", FORM, ""),
        (b"", FORM, ""),
        (form({}), FORM, ""),
        (form({"passphrase": SECRET.encode()}), FORM, ""),
        (form({"backup": b"x", "passphrase": SECRET.encode()}), FORM, ""),
        (form({"passphrase": b"short", "backup": b"x"}), FORM, "passphrase"),
        (form({"passphrase": b"\xff" * 20, "backup": b"x"}), FORM, "passphrase"),
        (form({"passphrase": b"x" * 20_000, "backup": b"x"}), FORM, "passphrase"),
        (form({"key": b"no key", "backup": b"x"}), FORM, "key"),
        (form({"passphrase": SECRET.encode(), "file": b"x"}), FORM, "backup"),
    ],
)
def test_a_restore_wants_a_secret_and_then_a_file(node: Node, body: bytes, kind: str, path: str) -> None:
    code, answer = node.post("/v1/datastore/restore", body, kind)
    (failure,) = answer["failures"]
    assert (code, failure["code"], failure["path"]) == (400, "bad-request", path)
    assert list(node.plane.places.state.iterdir()) == []
    assert_described("/v1/datastore/restore", "post", code, answer)


def test_dqlite_needs_no_defragmentation(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert node.main("defragment") == 1
    assert "[not-possible]" in capsys.readouterr().err


def test_etcd_tells_what_it_gave_back(
    node: Node, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def defragment() -> None:
        (node.plane.store.folder / "data").write_bytes(b"less")

    monkeypatch.setattr(node.plane.store, "defragment", defragment)
    assert node.main("defragment") == 0
    assert capsys.readouterr().out == "200000 bytes before, 4 bytes after\n"


@pytest.mark.parametrize("request_", [("GET", ""), ("POST", "/defragment")])
def test_a_worker_has_no_datastore(node: Node, request_: tuple[str, str]) -> None:
    node.served.node.keeper = None
    code, body = node.served.ask(request_[0], f"/v1/datastore{request_[1]}")
    assert (code, body["failures"][0]["code"]) == (503, "not-yet")


def test_secrets_are_not_logged(
    node: Node, secrets: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    target = tmp_path / "cluster.backup"
    assert node.main("backup", target, "--passphrase-file", secrets["passphrase"]) == 0
    assert node.main("restore", target, "--passphrase-file", secrets["other"], "--yes") == 1
    assert node.main("restore", target, "--passphrase-file", secrets["passphrase"], "--yes") == 0
    assert "no backup is restored" in caplog.text and "is restored" in caplog.text
    assert SECRET not in caplog.text and "PRIVATE KEY" not in caplog.text


KEPT = "basalt-basalt-20261123T090000Z.backup"


def test_kept_backups_are_listed_and_fetched(
    node: Node, secrets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert node.main("backups") == 0
    assert capsys.readouterr().out.startswith("None: ")
    folder = node.plane.places.kept
    folder.mkdir()
    assert node.main("backup", folder / KEPT, "--recipient", secrets["public"]) == 0
    capsys.readouterr()
    code, body = node.served.ask("GET", "/v1/datastore/backups")
    size = (folder / KEPT).stat().st_size
    assert (code, body) == (
        200,
        {"backups": [{"name": KEPT, "created": "2026-11-23T09:00:00Z", "size": size}]},
    )
    assert_described("/v1/datastore/backups", "get", code, body)
    assert node.main("backups") == 0
    assert capsys.readouterr().out.splitlines()[1] == f"{KEPT}  2026-11-23T09:00:00Z  {size}"
    target = tmp_path / "fetched"
    assert node.main("fetch", KEPT, target) == 0
    assert target.read_bytes() == (folder / KEPT).read_bytes()
    assert f"revision {REVISION}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["none", "../../identity.json", "..", "/etc/passwd", KEPT, f"../backups/{KEPT}", "new"]
)
def test_only_what_is_listed_is_fetched(
    node: Node, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = node.plane.places.kept
    folder.mkdir()
    (folder / KEPT).symlink_to(node.plane.catalogue.authority("ca").key)
    (folder / "new").touch()
    assert node.main("fetch", name, tmp_path / "fetched") == 1
    assert not (tmp_path / "fetched").exists() and capsys.readouterr().err
    code, body = node.served.ask("GET", f"/v1/datastore/backups/{name}")
    assert (code, body["failures"][0]["code"]) == (404, "not-found")
