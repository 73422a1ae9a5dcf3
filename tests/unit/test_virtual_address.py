# SPDX-License-Identifier: Apache-2.0
"""The API's virtual address: what keepalived is told, who carries it, and when this machine may."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot import apiwatch, files
from firstboot.apiwatch import PATIENCE, READY, UNREADY, Judge
from firstboot.carrier import Carrier
from firstboot.cluster import joining
from firstboot.config import Config
from firstboot.failure import BasaltError
from firstboot.files import File
from firstboot.kube import Client
from firstboot.observe import Observer
from firstboot.pki.catalogue import Catalogue, catalogue
from firstboot.reconcile import converge
from firstboot.report.status import Part, State
from firstboot.services import virtualaddress
from firstboot.services.model import Node
from firstboot.services.virtualaddress import CONFIGURED
from firstboot.steps.model import Finding
from firstboot.steps.virtualaddress import Configured, Introduced, Reloaded
from firstboot.systemd import Unit
from tests.unit.support_datastore import ControlPlane
from tests.unit.support_pair import made, over_tls
from tests.unit.test_plan import goal
from tests.unit.test_reconcile import machine

VIRTUAL = "192.0.2.100"
MEMBERS = ("192.0.2.9", "192.0.2.10", "192.0.2.11")


def node(ip: str = MEMBERS[0], *members: str, **cluster: Any) -> Node:
    config = Config.from_dict({"role": "control-plane", "cluster": {"virtual-address": VIRTUAL, **cluster}})
    return Node(config, "node-1", ip, control_planes=members, card="eth1")


def told(ip: str = MEMBERS[0], *members: str, **cluster: Any) -> str:
    return virtualaddress.configuration(node(ip, *members, **cluster)).data.decode()


def value(text: str, key: str) -> str:
    [line] = [line.split() for line in text.splitlines() if line.split()[:1] == [key]]
    return line[1]


def peers(text: str) -> list[str]:
    lines = text.splitlines()
    start = lines.index("    unicast_peer {")
    return [line.strip() for line in lines[start + 1 : lines.index("    }", start)]]


def test_a_control_plane_tells_each_other_one_and_believes_nobody_else() -> None:
    text = told(MEMBERS[1], *MEMBERS)
    assert peers(text) == [MEMBERS[0], MEMBERS[2]] and "vrrp_check_unicast_src" in text
    assert value(text, "unicast_src_ip") == MEMBERS[1]
    assert f"        {VIRTUAL}/32 dev eth1\n" in text
    assert "nopreempt" in text


def test_one_that_is_alone_speaks_to_nobody() -> None:
    """Without a partner keepalived would multicast; what is sent to the address stays with who carries it."""
    assert peers(told()) == peers(told(MEMBERS[0], MEMBERS[0])) == [VIRTUAL]


def test_no_two_wait_equally_long_for_an_address_that_nobody_carries() -> None:
    priorities = [int(value(told(each, *reversed(MEMBERS)), "priority")) for each in MEMBERS]
    assert priorities == sorted(set(priorities), reverse=True)
    many = [f"192.0.2.{number}" for number in range(1, 40)]
    assert all(1 <= int(value(told(each, *many), "priority")) < 255 for each in many)


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [({}, "100"), ({"virtual-address": "192.0.2.0"}, "255"), ({"virtual-router-id": 7}, "7")],
)
def test_the_router_id_comes_out_of_the_address(cluster: dict[str, Any], expected: str) -> None:
    assert value(told(**cluster), "virtual_router_id") == expected


def test_only_control_planes_with_such_an_address_run_it() -> None:
    units = {service.unit for service in goal(cluster={"virtual-address": VIRTUAL}).services}
    assert {"virtual-address", "virtual-address-watch"} <= units
    joins = {"token": "0123456789abcdef0123456789abcdef", "virtual-address": VIRTUAL}
    for others in (goal(), goal(role="worker", cluster=joins)):
        assert not [service for service in others.services if service.unit.startswith("virtual-address")]


def test_clients_and_machines_that_join_are_given_the_address() -> None:
    only = Config.from_dict({"role": "control-plane", "cluster": {"virtual-address": VIRTUAL}}).cluster
    assert (only.api_hosts, only.join_endpoints) == ((VIRTUAL,), (VIRTUAL,))
    both = replace(only, api_address="api.example.org")
    assert (both.api_hosts, both.join_endpoints) == (("api.example.org", VIRTUAL), ("api.example.org",))
    config = Config.from_dict(
        {"role": "control-plane", "cluster": {"virtual-address": VIRTUAL, "api-address": "api.example.org"}}
    )
    for name in ("apiserver", "basalt-api"):
        spec = catalogue(config, "node-1", [MEMBERS[0]]).certificate(name)
        assert VIRTUAL in spec.ip_addresses and "api.example.org" in spec.dns_names


@dataclass
class Manager:
    """systemd as far as the step needs it."""

    reloaded: list[str] = field(default_factory=list)

    async def reload(self, name: str) -> None:
        self.reloaded.append(name)


class Keepalived:
    """A node's folder with a keepalived in PATH that accepts what does not say `bad`."""

    def __init__(self, root: Path) -> None:
        self.manager, self.run = Manager(), root / "run"
        self.path, self.verdict = root / "virtual-address.conf", root / "unready"
        self.run.mkdir()
        self.verdict.write_text(UNREADY)
        program = root / "keepalived"
        script = 'grep -q bad "${2#--use-file=}" && { echo "line 1" >&2; exit 5; }\nexit 0\n'
        program.write_text(f"#!/bin/sh\n{script}")
        program.chmod(0o755)

    def follow(self, content: bytes, active: str = "active") -> list[str]:
        """Make a pass over both steps; return what was found."""
        wanted = File(self.path, content)
        units = {"virtual-address": Unit("virtual-address.service", active, "running", "/")}
        steps = (
            Configured(wanted, self.run, self.verdict, needs=()),
            Reloaded(wanted, self.run, needs=(CONFIGURED,)),
        )
        result = asyncio.run(converge(steps, machine(units, self.manager)))
        return [finding.action for _, finding in result.findings] + [each.found for each in result.failures]


@pytest.fixture
def keepalived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keepalived:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Keepalived(tmp_path)


def test_a_new_configuration_is_tried_written_and_told(keepalived: Keepalived) -> None:
    assert keepalived.follow(b"good\n", active="inactive") == ["write", "wait"]
    assert keepalived.follow(b"good\n", active="activating") == ["wait"], "who knows what it has read"
    assert keepalived.manager.reloaded == []
    assert keepalived.follow(b"good\n") == ["reload"]
    assert keepalived.follow(b"good\n") == []
    assert keepalived.follow(b"better\n") == ["write", "reload"]
    assert keepalived.manager.reloaded == ["virtual-address"] * 2
    assert keepalived.path.read_bytes() == b"better\n"


def test_the_file_that_it_follows_is_there_before_it_is_tried(keepalived: Keepalived) -> None:
    keepalived.verdict.unlink()
    assert keepalived.follow(b"good\n", active="inactive") == ["wait"]
    assert not keepalived.path.exists()


def test_what_keepalived_does_not_accept_changes_nothing(keepalived: Keepalived) -> None:
    keepalived.follow(b"good\n")
    *_, failure = keepalived.follow(b"bad\n")
    assert "exit code 5" in failure and "line 1" in failure
    assert keepalived.path.read_bytes() == b"good\n"
    assert [(path.name, path.read_bytes()) for path in keepalived.run.iterdir()] == [
        ("virtual-address.told", b"good\n")
    ]


def test_an_agent_that_was_killed_before_it_told_tells(keepalived: Keepalived) -> None:
    keepalived.follow(b"good\n")
    keepalived.path.write_bytes(b"better\n")
    assert keepalived.follow(b"better\n") == ["reload"]


@dataclass
class Partners:
    """What the other control planes say; those that are missing do not answer."""

    told: dict[str, bool]
    asked: list[str] = field(default_factory=list)

    def __call__(self, node: Node, certificates: Catalogue, host: str) -> bool:
        self.asked.append(host)
        if host not in self.told:
            raise BasaltError(f"{host} cannot be reached")
        return self.told[host]

    def found(self, active: str = "inactive", members: tuple[str, ...] = MEMBERS) -> list[str]:
        """Return what a control plane finds before it starts its keepalived."""
        units = {"virtual-address": Unit("virtual-address.service", active, "", "/")}
        step = Introduced(node(MEMBERS[0], *members), cast(Catalogue, None), self, needs=())
        result = asyncio.run(converge([step], machine(units)))
        return [finding.reason for _, finding in result.findings]


def test_it_starts_when_whoever_answers_would_tell_it_who_carries_the_address() -> None:
    assert Partners({MEMBERS[1]: True, MEMBERS[2]: False}).found() == [
        f"{MEMBERS[2]} does not know this control plane yet"
    ]
    assert Partners({MEMBERS[1]: True, MEMBERS[2]: True}).found() == []
    off = Partners({MEMBERS[1]: True})
    assert off.found() == [] and sorted(off.asked) == list(MEMBERS[1:])


def test_one_that_is_alone_or_runs_it_already_asks_nobody() -> None:
    partners = Partners({MEMBERS[1]: False})
    assert partners.found(members=()) == partners.found(members=MEMBERS[:1]) == partners.found("active") == []
    assert partners.asked == []


def test_a_partner_that_takes_long_to_answer_holds_nothing_up() -> None:
    answered = threading.Event()

    def late(node: Node, certificates: Catalogue, host: str) -> bool:
        return answered.wait(10) and False

    async def go() -> Finding | None:
        step = Introduced(node(MEMBERS[0], *MEMBERS), cast(Catalogue, None), late, patience=0.01)
        found = await step.check(machine({}))
        answered.set()
        return found

    assert asyncio.run(go()) is None


def test_who_can_carry_the_address_tells_those_that_its_keepalived_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict, config = tmp_path / "unready", tmp_path / "virtual-address.conf"
    monkeypatch.setattr(virtualaddress, "API_VERDICT", verdict)
    monkeypatch.setattr(virtualaddress, "CONFIG", config)
    knows, new = node(MEMBERS[0], *MEMBERS[:2]), MEMBERS[2]
    assert virtualaddress.tells(knows, new), "it has no verdict yet, so it cannot carry anything"
    verdict.write_text(READY)
    assert not virtualaddress.tells(knows, new)
    files.write_all([virtualaddress.configuration(knows)])
    assert virtualaddress.tells(knows, MEMBERS[1]) and not virtualaddress.tells(knows, new)
    found = node(MEMBERS[0], *MEMBERS)
    assert not virtualaddress.tells(found, new), "what its keepalived was told is older"
    files.write_all([virtualaddress.configuration(found)])
    assert virtualaddress.tells(found, new)
    verdict.write_text(UNREADY)
    assert virtualaddress.tells(knows, new)


def test_a_newcomer_is_looked_for_when_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair, asked = made(tmp_path, node().config), []
    monkeypatch.setattr(virtualaddress, "tells", lambda own, host: host == MEMBERS[1])
    admission = pair.admission(node(MEMBERS[0]), lambda: asked.append("looked"))

    def told(ip: str) -> bool:
        return over_tls(
            pair, admission, lambda port: joining.told_by(node(ip), pair.other, f"127.0.0.1:{port}")
        )

    assert told(MEMBERS[1]) and asked == []
    assert not told(MEMBERS[2]) and asked == ["looked"]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> ControlPlane:
    return ControlPlane.make(tmp_path_factory.mktemp("plane") / "node")


@asynccontextmanager
async def api(plane: ControlPlane, status: int = 200) -> AsyncIterator[int]:
    """Be the API server of a control plane; give the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readline():
            writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
        writer.close()

    spec = plane.catalogue.certificate("apiserver")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(spec.certificate, spec.key)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(("own", "who"), [("node-1", "this node"), ("node-2", "node-1")])
def test_who_carries_the_address_is_told_by_his_certificate(plane: ControlPlane, own: str, who: str) -> None:
    everybodys = frozenset({"localhost", *(f"kubernetes{rest}" for rest in ("", ".default", ".default.svc"))})

    async def ask() -> tuple[Part, Part]:
        async with Client(plane.root / "kubernetes/pki") as client:
            here = replace(machine({"virtual-address": Unit("", "active", "running", "/")}), client=client)
            async with api(plane) as port:
                carrier = Carrier(
                    "127.0.0.1", own, everybodys | {"kubernetes.default.svc.cluster.local"}, port
                )
                observer = Observer()
                works = await observer.part(here, "virtual-address", carrier)
            later = replace(here, _answers={})
            return works, await observer.part(later, "virtual-address", carrier)

    works, gone = asyncio.run(ask())
    assert works == Part(State.HEALTHY, f"127.0.0.1 is carried by {who}")
    assert gone.state is State.DEGRADED and gone.detail.startswith("no control plane answers at 127.0.0.1: ")


@pytest.mark.parametrize(("status", "ready"), [(200, True), (500, False)])
def test_the_watch_asks_for_readiness(plane: ControlPlane, status: int, ready: bool) -> None:
    authority = plane.root / "kubernetes/pki/ca-trusted.crt"

    async def ask() -> tuple[bool, bool, bool]:
        async with api(plane, status) as port:
            asked = await asyncio.to_thread(apiwatch.is_ready, "127.0.0.1", port, authority)
            stranger = await asyncio.to_thread(
                apiwatch.is_ready, "127.0.0.1", port, plane.root / "kubernetes/pki/front-proxy-ca.crt"
            )
        return asked, stranger, await asyncio.to_thread(apiwatch.is_ready, "127.0.0.1", port, authority)

    assert asyncio.run(ask()) == (ready, False, False)


def test_a_machine_gets_the_address_at_once_and_loses_it_when_it_stays_unready() -> None:
    judge = Judge.following(None, 0.0)
    assert judge.verdict(0.0) == UNREADY
    judge.hear(True, 10.0)
    judge.hear(False, 14.0)
    assert [judge.verdict(now) for now in (10.0, 15.0, 15.1)] == [READY, READY, UNREADY]
    judge.hear(True, 20.0)
    assert judge.verdict(20.0) == READY


@pytest.mark.parametrize(("verdict", "later"), [(READY, UNREADY), (UNREADY, UNREADY)])
def test_a_watch_that_starts_again_stands_by_the_verdict_for_a_while(verdict: str, later: str) -> None:
    judge = Judge.following(verdict, 100.0)
    assert [judge.verdict(100.0), judge.verdict(100.0 + PATIENCE + 0.1)] == [verdict, later]
