# SPDX-License-Identifier: Apache-2.0
"""How the agent talks to datastores: their programs are faked in PATH, etcd's gateway is a dictionary."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sqlite3
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot.config import Config, Datastore, DatastoreType
from firstboot.datastores.dqlite import Dqlite
from firstboot.datastores.etcd import Etcd
from firstboot.datastores.external import ExternalEtcd
from firstboot.datastores.store import Member, Salvaged, store
from firstboot.failure import BasaltError, Refused
from firstboot.kube import Client
from firstboot.services.model import Node

NODE = Node(Config.from_dict({"role": "control-plane"}), "node-1", "192.0.2.7")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Return a function that puts a program into PATH, which notes its arguments and prints something."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def make(name: str, output: str = "") -> Path:
        noted = tmp_path / f"{name}.arguments"
        (tmp_path / f"{name}.output").write_text(output)
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$@" > {noted}\ncat {tmp_path}/{name}.output\n')
        (tmp_path / name).chmod(0o755)
        return noted

    return make


def dqlite_status(**changes: object) -> str:
    own = {"id": 1, "address": "192.0.2.7:9000", "role": "voter", "leader": False}
    other = {"id": 2, "address": "192.0.2.8:9000", "role": "voter", "leader": True}
    third = {"id": 3, "address": "192.0.2.9:9000", "role": "stand-by", "leader": False}
    told = {
        "address": "192.0.2.7:9000",
        "leader": "192.0.2.8:9000",
        "healthy": True,
        "size": 8192,
        "revision": 7,
    }
    return json.dumps({**told, "members": [own, other, third], **changes})


def test_dqlite_says_how_it_stands(program: Callable[[str, str], Path]) -> None:
    program("k8s-dqlite", dqlite_status())
    found = asyncio.run(Dqlite().status())
    assert (found.type, found.leads, found.size, found.revision) == (DatastoreType.DQLITE, False, 8192, 7)
    assert found.members == (
        Member("", "192.0.2.7:9000", "voter", leader=False, healthy=True),
        Member("", "192.0.2.8:9000", "voter", leader=True, healthy=True),
        Member("", "192.0.2.9:9000", "stand-by", leader=False, healthy=None),
    )
    program("k8s-dqlite", dqlite_status(leader="192.0.2.7:9000"))
    assert asyncio.run(Dqlite().status()).leads


def test_dqlite_without_a_leader_does_not_answer(program: Callable[[str, str], Path]) -> None:
    program("k8s-dqlite", dqlite_status(healthy=False, error="no leader"))
    with pytest.raises(BasaltError, match="does not answer: no leader"):
        asyncio.run(Dqlite().status())


def test_dqlite_dumps_and_builds(program: Callable[[str, str], Path], tmp_path: Path) -> None:
    noted = program("k8s-dqlite", "")
    asyncio.run(Dqlite().snapshot(tmp_path / "snapshot"))
    assert noted.read_text().split() == ["dump", f"{tmp_path}/snapshot"]
    asyncio.run(Dqlite().build(NODE, tmp_path / "snapshot", tmp_path / "new"))
    assert noted.read_text().split() == ["restore", f"--storage-dir={tmp_path}/new", f"{tmp_path}/snapshot"]
    with pytest.raises(Refused, match="does not give back the space"):
        asyncio.run(Dqlite().defragment())


def test_the_revision_of_a_dump_is_its_newest_row(tmp_path: Path) -> None:
    path = tmp_path / "a snapshot?#%"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT)")
        with pytest.raises(BasaltError, match="damaged"):
            asyncio.run(Dqlite().revision(path))
        database.executemany(
            "INSERT INTO kine (id, name) VALUES (?, ?)", [(n, "x" * 500) for n in range(1, 500)]
        )
    database.close()
    assert asyncio.run(Dqlite().revision(path)) == 499
    whole = path.read_bytes()
    path.write_bytes(whole[:20_000] + bytes(8192) + whole[28_192:])
    for damaged in (path, tmp_path / "none"):
        with pytest.raises(BasaltError, match="snapshot of the datastore"):
            asyncio.run(Dqlite().revision(damaged))


def lease(seconds: int) -> bytes:
    """Return a kubelet's Lease as API servers store it: an envelope, Lease, LeaseSpec, MicroTime."""
    number = b""
    while seconds > 0x7F:
        number, seconds = number + bytes((seconds & 0x7F | 0x80,)), seconds >> 7
    time = b"\x08" + number + bytes((seconds,)) + b"\x10\x80\x01"
    spec = b"\x0a\x06node-1\x10\x28" + b"\x22" + bytes((len(time),)) + time
    body = b"\x0a\x08\x0a\x06node-1" + b"\x12" + bytes((len(spec),)) + spec
    kind = b"\x0a\x05Lease"
    return b"k8s\0\x0a" + bytes((len(kind),)) + kind + b"\x12" + bytes((len(body),)) + body


def salvaged(*members: Mapping[str, object], signs: tuple[bytes, ...] = ()) -> str:
    told = {"term": 7, "index": 98123, "revision": 4711, "members": members}
    return json.dumps({**told, "signs_of_life": [base64.b64encode(each).decode() for each in signs]})


def test_what_is_salvaged_is_told_alike_by_both(program: Callable[[str, str], Path], tmp_path: Path) -> None:
    newest = int(datetime(2026, 11, 23, 9, 0, 5, tzinfo=UTC).timestamp())
    signs = (
        *(lease(when) for when in (newest - 5, newest, newest - 10)),
        *(b"{}", b"k8s\0", lease(newest + 60)[:-6]),
    )
    own = {"id": 1, "address": "192.0.2.7:9000", "role": "voter", "leader": False}
    noted = program("k8s-dqlite", salvaged(own, {**own, "address": "192.0.2.8:9000"}, signs=signs))
    found = asyncio.run(Dqlite().salvage(tmp_path / "copy", tmp_path / "snapshot"))
    assert noted.read_text().split() == ["salvage", f"--storage-dir={tmp_path}/copy", f"{tmp_path}/snapshot"]
    roles = {"192.0.2.7": "voter", "192.0.2.8": "voter"}
    assert found == Salvaged(7, 98123, 4711, "2026-11-23T09:00:05Z", roles)
    peers = [{"name": "", "address": f"https://{host}:2380", "role": "voter"} for host in roles]
    noted = program("etcdutl", salvaged(*peers, signs=signs))
    assert asyncio.run(Etcd(Client()).salvage(tmp_path / "copy", tmp_path / "snapshot")) == found
    assert noted.read_text().split() == ["salvage", f"--data-dir={tmp_path}/copy", f"{tmp_path}/snapshot"]


@pytest.mark.parametrize(
    "output", ["", "{}", "[]", '{"term": 1, "index": 1, "revision": 1, "signs_of_life": ["x"]}']
)
def test_what_is_told_in_another_form_is_an_error(
    output: str, program: Callable[[str, str], Path], tmp_path: Path
) -> None:
    program("k8s-dqlite", output)
    with pytest.raises(BasaltError, match="usual form"):
        asyncio.run(Dqlite().salvage(tmp_path / "copy", tmp_path / "snapshot"))


def test_a_new_cluster_has_no_signs_of_life(program: Callable[[str, str], Path], tmp_path: Path) -> None:
    program("etcdutl", '{"term": 2, "index": 9, "revision": 1, "members": null, "signs_of_life": null}')
    found = asyncio.run(Etcd(Client()).salvage(tmp_path / "copy", tmp_path / "snapshot"))
    assert found == Salvaged(2, 9, 1, None, {})


class Gateway:
    """What etcd's gateway answers: numbers of 64 bits are text in JSON, and what is empty is left out."""

    def __init__(self, errors: list[str] | None = None) -> None:
        self.status = {"header": {"member_id": "1", "revision": "7"}, "leader": "2", "dbSize": "8192"}
        if errors:
            self.status["errors"] = errors

    async def call(self, method: str, url: str, trust: object, body: dict[str, Any]) -> Any:
        if url.endswith("/maintenance/status"):
            return self.status
        return {
            "members": [
                {"ID": "1", "name": "node-1", "peerURLs": ["https://192.0.2.7:2380"]},
                {"ID": "2", "name": "node-2", "peerURLs": ["https://192.0.2.8:2380"]},
                {"ID": "3", "peerURLs": ["https://192.0.2.9:2380"], "isLearner": True},
            ]
        }


@pytest.mark.parametrize(("errors", "healthy"), [(None, True), (["NOSPACE"], False)])
def test_etcd_says_how_it_stands(errors: list[str] | None, healthy: bool) -> None:
    found = asyncio.run(Etcd(cast(Client, Gateway(errors))).status())
    assert (found.type, found.leads, found.size, found.revision) == (DatastoreType.ETCD, False, 8192, 7)
    assert found.members == (
        Member("node-1", "https://192.0.2.7:2380", "voter", leader=False, healthy=healthy),
        Member("node-2", "https://192.0.2.8:2380", "voter", leader=True, healthy=True),
        Member("", "https://192.0.2.9:2380", "learner", leader=False, healthy=None),
    )


def test_etcds_tools_are_given_certificates_and_the_leap(
    program: Callable[[str, str], Path], tmp_path: Path
) -> None:
    etcd = Etcd(Client())
    asked, offline = program("etcdctl", ""), program("etcdutl", '{"hash":1,"revision":4711,"totalKey":3}')
    asyncio.run(etcd.snapshot(tmp_path / "snapshot"))
    words = asked.read_text().split()
    assert words[-3:] == ["snapshot", "save", f"{tmp_path}/snapshot"]
    assert "--cert=/etc/kubernetes/pki/apiserver-etcd-client.crt" in words
    assert asyncio.run(etcd.revision(tmp_path / "snapshot")) == 4711
    asyncio.run(etcd.build(NODE, tmp_path / "snapshot", tmp_path / "new"))
    words = offline.read_text().split()
    assert words[:3] == ["snapshot", "restore", f"{tmp_path}/snapshot"]
    assert {"--name=node-1", "--initial-cluster=node-1=https://127.0.0.1:2380", "--mark-compacted"} <= set(
        words
    )
    assert "--bump-revision=1000000000" in words
    asyncio.run(etcd.defragment())
    assert asked.read_text().split()[-1] == "defrag"


def test_each_type_has_its_store() -> None:
    found = [type(store(Datastore(type=each), Client())) for each in DatastoreType]
    assert found == [Dqlite, Etcd, ExternalEtcd]
