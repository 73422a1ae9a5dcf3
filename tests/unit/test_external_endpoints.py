# SPDX-License-Identifier: Apache-2.0
"""What endpoints answer that are no etcd as it should be. A real one, sound and not: tests/torture/test_external.py."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot import files
from firstboot.codes import Code
from firstboot.config import External
from firstboot.datastores import claim, external
from firstboot.datastores.endpoints import Answer, ask
from firstboot.datastores.external import Login, complaint
from firstboot.datastores.watch import LATER, SOON, Watch
from firstboot.kube import Client
from firstboot.pki import ca
from firstboot.pki.ca import Authority
from firstboot.pki.leaf import Usage
from firstboot.steps.claim import Claim
from firstboot.steps.model import Machine

from .support_external import authority, pair, section

PATH = "basalt.datastore.external.endpoints[0]"


@dataclass
class Etcd:
    """What a member says of itself; asked: which pages it was asked for."""

    version: str = "3.7.3"
    health: dict[str, str] = field(default_factory=lambda: {"health": "true", "reason": ""})
    ahead: float = 0.0
    pages: bool = True
    hangs_up: bool = False
    http: str = "HTTP/1.1"
    port: int = 0
    asked: list[str] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def answer(self, path: str) -> tuple[int, str]:
        self.asked.append(path)
        if not self.pages:
            return 404, "not found"
        if path == "/version":
            return 200, json.dumps({"etcdserver": self.version, "etcdcluster": "3.7.0"})
        return (200 if self.health["health"] == "true" else 503), json.dumps(self.health)


@dataclass(frozen=True)
class Place:
    """The files of a server and of a client, by an authority that both trust."""

    folder: Path
    authority: Authority
    login: Login
    external: External


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("etcd")
    made = authority(folder)
    server = pair(made, "server", Usage.SERVER)
    (folder / "server.pem").write_text(server.certificate + server.key)
    login, given = Login.below(folder / "pki"), External.from_dict(section(made))
    login.ca.parent.mkdir(parents=True)
    files.write_all(external.endpoint(given, login, owner=None).files)
    return Place(folder, made, login, given)


@contextmanager
def serving(place: Place, etcd: Etcd) -> Iterator[Etcd]:
    """Serve on a free port; clients need a certificate of the authority."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = etcd.http

        def do_GET(self) -> None:
            if etcd.hangs_up:
                self.close_connection = True
                return
            status, text = etcd.answer(self.path)
            self.send_response_only(status)
            self.send_header("Date", formatdate(time.time() + etcd.ahead, usegmt=True))
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place.folder / "server.pem")
    context.load_verify_locations(place.authority.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True)
        etcd.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield etcd
        finally:
            server.shutdown()
            thread.join()


def asked(place: Place, etcd: Etcd) -> Answer:
    with serving(place, etcd):
        return ask(etcd.endpoint, place.login, PATH)


@pytest.mark.parametrize("version", ["3.5.24", "3.6.0", "3.7.0-rc.1", "4.0.0"])
def test_an_etcd_that_can_be_used(place: Place, version: str) -> None:
    etcd = Etcd(version)
    assert asked(place, etcd) == Answer(etcd.endpoint, version)
    # As something between may do that closes each connection.
    etcd = Etcd(version, http="HTTP/1.0")
    assert asked(place, etcd) == Answer(etcd.endpoint, version)


@pytest.mark.parametrize(
    ("etcd", "code", "words"),
    [
        (Etcd("3.5.23"), Code.DATASTORE_OLD, "is etcd 3.5.23, and Kubernetes needs 3.5.24"),
        (Etcd("3.4.40"), Code.DATASTORE_OLD, "is etcd 3.4.40"),
        (Etcd(health={"health": "false", "reason": "RAFT NO LEADER"}), Code.DATASTORE_NO_QUORUM, "NO LEADER"),
        (Etcd(health={"health": "false", "reason": "ALARM NOSPACE"}), Code.DATASTORE_ALARM, "ALARM NOSPACE"),
        (Etcd(health={"health": "false"}), Code.DATASTORE_NO_QUORUM, "no reason"),
        (Etcd(pages=False), Code.DATASTORE_UNREACHABLE, "no JSON"),
        (Etcd(hangs_up=True), Code.DATASTORE_REFUSES, "ends the connection after the TLS handshake"),
    ],
    ids=lambda each: str(each)[:24],
)
def test_one_that_cannot(place: Place, etcd: Etcd, code: Code, words: str) -> None:
    failure = asked(place, etcd).failure
    assert failure is not None
    assert (failure.code, failure.path) == (code, PATH)
    assert failure.found.startswith(f"{etcd.endpoint}: ") and words in failure.found and failure.remedy


@pytest.mark.parametrize(("ahead", "words"), [(7200, "7200 seconds behind"), (-7200, "seconds ahead of")])
def test_a_clock_that_is_apart_keeps_nobody_out(place: Place, ahead: float, words: str) -> None:
    answer = asked(place, Etcd(ahead=ahead))
    assert answer.failure is None and answer.notice is not None
    assert answer.notice.code == Code.CLOCKS_APART
    assert words.split(" ", 1)[1] in answer.notice.found


def test_files_that_are_not_there_yet(place: Place, tmp_path: Path) -> None:
    found = ask("https://127.0.0.1:1", Login.below(tmp_path), PATH)
    failure = found.failure
    assert failure is not None and "cannot be used" in failure.found


def test_one_that_hangs_up_before_it_has_said_anything(place: Place) -> None:
    def rude(server: socket.socket) -> None:
        server.accept()[0].close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=rude, args=(server,))
        thread.start()
        failure = ask(f"https://127.0.0.1:{server.getsockname()[1]}", place.login, PATH).failure
        thread.join()
    assert failure is not None and failure.code == Code.DATASTORE_UNREACHABLE


@dataclass
class Clock:
    """A clock that a test sets."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def watch(place: Place, etcd: Etcd, clock: Clock, tmp_path: Path) -> Watch:
    return Watch(
        replace(place.external, endpoints=(etcd.endpoint,)),
        cluster="basalt",
        founds=True,
        login=place.login,
        authority=place.authority.certificate,
        record=tmp_path / "datastore-claim.json",
        clock=clock,
    )


def test_etcd_is_not_asked_more_often_than_need_be(place: Place, tmp_path: Path) -> None:
    clock, etcd = Clock(), Etcd(health={"health": "false", "reason": "RAFT NO LEADER"})
    with serving(place, etcd):
        eye = watch(place, etcd, clock, tmp_path)
        assert (eye.reason, eye.detail, eye.failures) == ("not asked yet", "", ())
        for passed, looks in ((0.0, 1), (SOON / 2, 1), (SOON, 2), (LATER, 3)):
            clock.now += passed
            assert "RAFT NO LEADER" in str(asyncio.run(eye(Client())))
            assert etcd.asked.count("/health") == looks
        assert eye.detail == "etcd 3.7.3, 0 of 1 endpoints"
        assert [failure.code for failure in eye.failures] == [Code.DATASTORE_NO_QUORUM]


GET = """#!/bin/sh
echo "$@" >> {folder}/asked
test -e {folder}/fails && {{ cat {folder}/fails >&2; exit 1; }}
echo '{{"header":{{"cluster_id":1,"revision":7}}}}'
"""


def test_whose_the_data_is_is_asked_for_when_something_has_changed(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etcdctl").write_text(GET.format(folder=tmp_path))
    (tmp_path / "etcdctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    clock = Clock()
    with serving(place, Etcd()) as etcd:
        eye = watch(place, etcd, clock, tmp_path)
        asyncio.run(eye(Client()))
        assert eye.claimable
        command = (tmp_path / "asked").read_text()
        assert "--consistency=l /registry/basalt-cluster" in command
        assert place.login.key.read_text().splitlines()[1] not in command
        (tmp_path / "fails").write_text(
            '{"level":"warn","error":"x"}\nError: etcdserver: permission denied\n'
        )
        clock.now += LATER
        assert "permission denied" in str(asyncio.run(eye(Client())))
        assert [failure.code for failure in eye.failures] == [Code.DATASTORE_REFUSES] and not eye.claimable


CLAIMED = """#!/bin/sh
echo "$@" >> {folder}/asked
case "$*" in *txn*) cat >> {folder}/asked; echo '{{"succeeded":true}}'; exit;; esac
echo '{{"header":{{"cluster_id":1}},"kvs":[{{"key":"eA==","value":"{owner}"}}]}}'
"""


def test_the_prefix_is_claimed_anew_when_another_ca_has_the_clusters_place(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Authority("old", "old", tmp_path / "old.crt", tmp_path / "old.key", owner=None)
    now = replace(before, certificate=tmp_path / "ca.crt", key=tmp_path / "ca.key")
    for each in (before, now):
        ca.apply(each)
    owner = b64encode(f"{claim.fingerprint(before.certificate)} production".encode()).decode()
    (tmp_path / "etcdctl").write_text(CLAIMED.format(folder=tmp_path, owner=owner))
    (tmp_path / "etcdctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    machine = Machine(cast(Any, None), Client(), {})
    with serving(place, Etcd()) as etcd:

        def look(*, succeeds: bool) -> Claim:
            eye = replace(watch(place, etcd, Clock(), tmp_path), authority=now.certificate, succeeds=succeeds)
            return Claim(eye)

        foreign = look(succeeds=True)
        asyncio.run(foreign.check(machine))
        assert [failure.code for failure in foreign.watch.failures] == [Code.DATASTORE_FOREIGN]
        (tmp_path / "ca-beside.crt").write_bytes(before.certificate.read_bytes())
        signs = look(succeeds=False)
        asyncio.run(signs.apply(machine))
        assert asyncio.run(signs.check(machine)) is None, "as long as the old one may still sign it stays"
        step = look(succeeds=True)
        finding = asyncio.run(step.check(machine))
        assert finding is not None and finding.action == "claim"
        asyncio.run(step.apply(machine))
        asked = (tmp_path / "asked").read_text()
        assert f'create("/registry/{claim.NAME}") > "0"' in asked
        assert f'"{claim.fingerprint(now.certificate)} basalt"' in asked
        assert asyncio.run(step.check(machine)) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it says nothing"),
        ("Error: context deadline exceeded\n", "context deadline exceeded"),
        ('{"level":"warn","error":"no leader"}\n', "no leader"),
        ("{}\n", "{}"),
    ],
)
def test_what_etcdctl_complains_of_in_a_line(text: str, said: str) -> None:
    assert complaint(text) == said
