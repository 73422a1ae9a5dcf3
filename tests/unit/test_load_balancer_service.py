# SPDX-License-Identifier: Apache-2.0
"""The load balancer's service: one writes down who has which address, and programs are told, at real sockets."""

from __future__ import annotations

import asyncio
import copy
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from firstboot.kube import Client
from firstboot.loadbalancer import bird, lease, places, process, writer
from firstboot.loadbalancer.addresses import Pool, spans
from firstboot.loadbalancer.lease import Lease
from firstboot.loadbalancer.program import Program
from firstboot.loadbalancer.settings import Settings
from firstboot.loadbalancer.writer import Writer
from firstboot.probes import ToldProbe
from tests.unit.test_kube import served, without_tls
from tests.unit.test_load_balancer import CARDS

STATUS = "/api/v1/namespaces/default/services/{}/status"
KINDS = {
    "/api/v1/services": "Service",
    "/api/v1/nodes": "Node",
    "/apis/discovery.k8s.io/v1/endpointslices": "EndpointSlice",
}


class Api:
    """Services, a Lease and events as an API server has them: versions, conflicts, lists and watches."""

    def __init__(self) -> None:
        self.version = 1
        self.objects: dict[str, dict[str, Any]] = {each: {} for each in KINDS}
        self.watches: list[tuple[str, asyncio.Queue[Any]]] = []
        self.lease: dict[str, Any] = {"metadata": {"name": "load-balancer", "resourceVersion": "1"}}
        self.events: list[str] = []
        self.refuses = 0
        self.said = asyncio.Event()

    def put(self, path: str, kind: str, obj: dict[str, Any]) -> None:
        """Change, add or remove an object, and tell those who watch."""
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        if kind == "DELETED":
            del self.objects[path][obj["metadata"]["name"]]
        else:
            self.objects[path][obj["metadata"]["name"]] = obj
        for watched, queue in self.watches:
            if watched == path:
                queue.put_nowait({"type": kind, "object": copy.deepcopy(obj)})
        self.said.set()

    def add(self, name: str, **spec: Any) -> None:
        """Make a Service."""
        metadata = {
            "name": name,
            "namespace": "default",
            "uid": name,
            "creationTimestamp": "2026-11-26T22:00:00Z",
        }
        spec = {"type": "LoadBalancer", "ipFamilies": ["IPv4"], **spec}
        self.put("/api/v1/services", "ADDED", {"metadata": metadata, "spec": spec, "status": {}})

    def addresses(self) -> dict[str, list[str]]:
        """Return what the statuses say."""
        return {
            name: [each["ip"] for each in obj["status"].get("loadBalancer", {}).get("ingress") or ()]
            for name, obj in self.objects["/api/v1/services"].items()
        }

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what is here is so."""
        async with asyncio.timeout(10):
            while not condition():
                self.said.clear()
                await self.said.wait()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path == places.LEASE:
            return await self._lease(request)
        if path == "/api/v1/namespaces/default/events":
            self.events.append((await request.json())["message"])
            self.said.set()
            return web.json_response({}, status=201)
        if path.endswith("/status"):
            return await self._status(request)
        if path not in KINDS:
            return web.json_response({"message": "not here"}, status=404)
        if "watch" in request.query:
            return await self._watch(request)
        items = list(self.objects[path].values())
        return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})

    async def _lease(self, request: web.Request) -> web.Response:
        if request.method == "PUT":
            new = await request.json()
            if new["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
                return web.json_response({"message": "changed"}, status=409)
            self.version += 1
            new["metadata"]["resourceVersion"] = str(self.version)
            self.lease = new
            self.said.set()
        return web.json_response(self.lease)

    async def _status(self, request: web.Request) -> web.Response:
        change = json.loads(await request.text())
        name = request.path.split("/")[-2]
        found = self.objects["/api/v1/services"].get(name)
        if self.refuses:
            self.refuses -= 1
            return web.json_response({"message": "no leader"}, status=500)
        if found is None or found["metadata"]["resourceVersion"] != change["metadata"]["resourceVersion"]:
            return web.json_response({"message": "changed"}, status=409 if found else 404)
        new = copy.deepcopy(found)
        new["status"]["loadBalancer"] = {k: v for k, v in change["status"]["loadBalancer"].items() if v}
        new["metadata"]["managedFields"] = [
            {"manager": request.query["fieldManager"], "subresource": "status"}
        ]
        self.put("/api/v1/services", "MODIFIED", new)
        return web.json_response(new)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self.watches.append((request.path, queue))
        with suppress(ConnectionResetError):
            while (event := await queue.get()) is not None:
                await response.write(json.dumps(event).encode() + b"\n")
        return response


@asynccontextmanager
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Api, Client]]:
    """Be an API server, and a client of it."""
    api = Api()
    async with served(api.handle) as url, Client() as client:
        without_tls(monkeypatch, url)
        try:
            yield api, client
        finally:
            for _, queue in api.watches:
                queue.put_nowait(None)


def go(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(limited())


@asynccontextmanager
async def running(work: Awaitable[None]) -> AsyncIterator[None]:
    """Have something run meanwhile; it must not end by itself."""
    task = asyncio.ensure_future(work)
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def holder(client: Client, name: str = "node-1", now: list[float] | None = None) -> Lease:
    clock = [0.0] if now is None else now
    return Lease(client, places.LEASE, name, lambda: clock[0])


def test_services_get_addresses_and_give_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(spans(["192.0.2.64-192.0.2.65"]))

    async def test() -> None:
        async with cluster(monkeypatch) as (api, client):
            held = holder(client)
            await held.acquire()
            api.add("b")
            async with running(Writer(client, held, lambda: pool).serve()):
                await api.until(lambda: api.addresses() == {"b": ["192.0.2.64"]})
                api.add("a")
                api.add("c")
                full = {"a": ["192.0.2.65"], "b": ["192.0.2.64"], "c": []}
                await api.until(lambda: api.addresses() == full)
                await api.until(lambda: any("are in use" in each for each in api.events))
                other = copy.deepcopy(api.objects["/api/v1/services"]["b"])
                other["spec"]["type"] = "ClusterIP"
                api.put("/api/v1/services", "MODIFIED", other)
                await api.until(lambda: api.addresses() == {**full, "b": [], "c": ["192.0.2.64"]})
                api.put("/api/v1/services", "DELETED", api.objects["/api/v1/services"]["a"])
                api.add("d")
                await api.until(lambda: api.addresses().get("d") == ["192.0.2.65"])
            # Whoever comes next finds everything as it is.
            before = api.version
            async with running(Writer(client, held, lambda: pool).serve()):
                api.add("e")
                await api.until(lambda: len([each for each in api.events if "are in use" in each]) == 2)
            assert api.version == before + 1, "nothing but the new Service"

    go(test)


def test_what_could_not_be_written_is_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "AGAIN", 0.01)

    async def test() -> None:
        async with cluster(monkeypatch) as (api, client):
            held = holder(client)
            await held.acquire()
            api.refuses = 2
            api.add("a")
            async with running(Writer(client, held, lambda: Pool(spans(["192.0.2.64"]))).serve()):
                await api.until(lambda: api.addresses() == {"a": ["192.0.2.64"]})

    go(test)


def test_who_has_lost_the_lease_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "AGAIN", 0.01)

    async def test() -> None:
        async with cluster(monkeypatch) as (api, client):
            now = [0.0]
            held = holder(client, now=now)
            await held.acquire()
            now[0] = lease.DURATION - lease.MARGIN
            looked = asyncio.Event()

            def pool() -> Pool:
                if api.objects["/api/v1/services"]:
                    looked.set()
                return Pool(spans(["192.0.2.64"]))

            api.add("a")
            async with running(Writer(client, held, pool).serve()):
                for _ in range(3):
                    looked.clear()
                    await looked.wait()
            assert api.addresses() == {"a": []}

    go(test)


def test_one_holds_the_lease_until_it_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with cluster(monkeypatch) as (api, client):
            now = [100.0]
            one, two = holder(client, "one", now), holder(client, "two", now)

            async def who() -> list[bool]:
                return [await two._attempt(), one.held, two.held]

            assert await one._attempt()
            assert await who() == [False, True, False]
            now[0] += lease.DURATION - 1
            assert await who() == [False, False, False], "silent, but not for long enough"
            assert await one._attempt(), "renewed"
            now[0] += lease.DURATION - 1
            assert await who() == [False, False, False]
            now[0] += lease.DURATION + 0.1
            assert await who() == [True, False, True]
            assert not await one._attempt()
            assert api.lease["spec"]["leaseTransitions"] == 2
            await two.release()
            assert await one._attempt(), "nobody has to wait for one that let go"

    go(test)


def test_a_lease_that_somebody_else_changes_meanwhile_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with cluster(monkeypatch) as (api, client):
            one, two = holder(client, "one"), holder(client, "two")
            assert sorted(await asyncio.gather(one._attempt(), two._attempt())) == [False, True]
            api.lease = {}
            assert not await holder(client, "three")._attempt()

    go(test)


def test_work_that_fails_is_not_hidden_by_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with cluster(monkeypatch) as (_, client):
            held = holder(client)
            await held.acquire()

            async def fails() -> None:
                raise RuntimeError("a bug")

            with pytest.raises(RuntimeError, match="a bug"):
                await held.keep(asyncio.create_task(fails()))

    go(test)


TRAP = """
import pathlib, signal, sys
told = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGHUP, lambda *_: told.write_text("told"))
pathlib.Path(sys.argv[2]).write_text("ready")
while True:
    signal.pause()
"""


def accepts(path: Path) -> list[str]:
    return ["sh", "-c", 'grep -q bad "$1" && { echo "line 1" >&2; exit 5; }; exit 0', "-", str(path)]


class Daemon:
    """A process that notes that it was told, and a command that accepts what does not say `bad`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.told = folder, folder / "told"
        self.program = Program("keepalived", folder / "l2.conf", accepts, folder / "pid")
        self.process: subprocess.Popen[bytes] | None = None

    def follow(self, text: str) -> str | None:
        return asyncio.run(self.program.follow(text))

    def start(self) -> None:
        ready = self.folder / "ready"
        self.process = subprocess.Popen([sys.executable, "-c", TRAP, str(self.told), str(ready)])
        self._wait(ready)
        ready.unlink()
        (self.folder / "pid").write_text(f"{self.process.pid}\n")

    def was_told(self) -> bool:
        self._wait(self.told)
        self.told.unlink()
        return True

    def _wait(self, path: Path) -> None:
        async def there() -> None:
            async with asyncio.timeout(10):
                while not path.exists():
                    await asyncio.sleep(0.01)

        asyncio.run(there())

    def end(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def daemon(tmp_path: Path) -> Any:
    made = Daemon(tmp_path)
    yield made
    made.end()


def test_a_program_is_told_of_what_it_accepts(daemon: Daemon) -> None:
    daemon.program.begin("first\n")
    daemon.program.begin("second\n")
    assert (daemon.folder / "l2.conf").read_text() == "first\n", "what there is stays"
    assert daemon.follow("good\n") is None, "it has not started yet"
    daemon.start()
    assert daemon.follow("good\n") is None and daemon.was_told(), "who knows what it has read"
    assert daemon.follow("good\n") is None and not daemon.told.exists()
    assert daemon.follow("better\n") is None and daemon.was_told()
    assert (daemon.folder / "l2.conf").read_text() == "better\n"
    reason = daemon.follow("bad\n")
    assert reason is not None and "keepalived does not accept" in reason and "exit code 5" in reason
    assert daemon.follow("bad\n") == reason and not daemon.told.exists()
    assert (daemon.folder / "l2.conf").read_text() == "better\n"
    assert not [path for path in daemon.folder.iterdir() if path.suffix in (".tried", ".new")]
    daemon.end()
    assert daemon.follow("best\n") is None, "its process has gone"
    daemon.start()
    assert daemon.follow("best\n") is None and daemon.was_told(), "another one is told again"


def test_bird_is_asked_for_its_sessions(tmp_path: Path) -> None:
    answer = (
        "2002-Name       Proto      Table      State  Since         Info\n"
        "1002-device1    Device     ---        up     22:25:48.537  \n"
        " router1    BGP        ---        start  22:25:50.173  Connect       \n"
        "0000 \n"
    )

    async def talk(reader: asyncio.StreamReader, stream: asyncio.StreamWriter) -> None:
        stream.write(b"0001 BIRD 2.17.6 ready.\n")
        assert await reader.readline() == b"show protocols\n"
        stream.write(answer.encode())
        stream.close()

    async def test() -> None:
        peers = FEATURE.bgp_peers
        control = tmp_path / "bird.ctl"
        assert "BIRD does not answer" in (await bird.missing(control, peers))[0]
        async with await asyncio.start_unix_server(talk, control):
            assert await bird.missing(control, peers) == ["no BGP session with 192.0.2.254: connect"]

    go(test)


FEATURE = Settings.from_json(
    json.dumps(
        {
            "node": "node-1",
            "cards": {"ip": "127.0.0.1", "own": [["lo", "127.0.0.1/8"]], "chosen": [], "ipv6": None},
            "feature": {
                "enabled": True,
                "cidrs": ["192.0.2.64-192.0.2.66"],
                "l2-mode": True,
                "bgp-mode": True,
                "bgp-local-asn": 64512,
                "bgp-peers": [{"address": "192.0.2.254", "asn": 64513}],
            },
            "allocates": True,
            "proxied": False,
            "virtual": ["192.0.2.66", 66],
        }
    )
).feature


def test_settings_come_back_from_their_file() -> None:
    settings = Settings("node-1", CARDS, FEATURE, allocates=True, proxied=False, virtual=("192.0.2.66", 66))
    assert Settings.from_json(settings.to_json()) == settings
    nodes = {"node-2": ("203.0.113.2", "192.0.2.65"), "node-3": ("203.0.113.3",)}
    pool = settings.pool(nodes)
    assert {str(address): who for address, who in pool.taken.items()} == {
        "192.0.2.65": "the node node-2",
        "192.0.2.66": "the API (cluster.virtual-address)",
    }
    assert (pool.size, pool.foreign, pool.in_l2) == (1, 66, True)


def test_the_whole_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It gives an address, writes both configurations, and says how it stands; the API server's end changes nothing."""
    program = tmp_path / "bin"
    program.mkdir()
    for name in ("keepalived", "bird"):
        (program / name).write_text("#!/bin/sh\nexit 0\n")
        (program / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{program}:/usr/bin:/bin")
    files = {"L2": "l2.conf", "BGP": "bgp.conf", "LACKS": "lacks", "ACCOUNT": "account"}
    for name, at in {**files, "L2_PID": "l2.pid", "BGP_PID": "bgp.pid", "BGP_CONTROL": "bird.ctl"}.items():
        monkeypatch.setattr(places, name, tmp_path / at)
    monkeypatch.setattr(process, "INTERVAL", 0.05)
    settings = Settings("node-1", CARDS, FEATURE, allocates=True, proxied=False)

    def said(words: str, name: str = "account") -> bool:
        path = tmp_path / name
        return path.exists() and words in path.read_text()

    async def become(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.02)

    async def test() -> None:
        async with cluster(monkeypatch) as (api, client):
            status = {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}
            api.put("/api/v1/nodes", "ADDED", {"metadata": {"name": "node-1"}, "status": status})
            api.add("web")
            api.add("local", externalTrafficPolicy="Local")
            async with running(process.Balancer(settings, client).run(client)):
                await become(lambda: said("2 of 3 addresses in use, this node carries none"))
                await become(lambda: said("route 192.0.2.65/32", "bgp.conf"))
                assert said("vrrp_instance 192.0.2.65 ", "l2.conf"), "that of web"
                assert not said("192.0.2.64/32", "l2.conf"), "nothing here serves local"
                assert said("BIRD does not answer", "lacks")
                slice_ = {
                    "metadata": {
                        "name": "local-1",
                        "namespace": "default",
                        "labels": {"kubernetes.io/service-name": "local"},
                    },
                    "endpoints": [{"addresses": ["10.1.0.2"], "nodeName": "node-1"}],
                }
                api.put("/apis/discovery.k8s.io/v1/endpointslices", "ADDED", slice_)
                await become(lambda: said("192.0.2.64/32", "l2.conf"))
                for name in ("x", "y"):
                    api.add(name)
                await become(
                    lambda: said("3 of 3 addresses in use") and said("default/y: all IPv4 addresses")
                )
            assert api.lease["spec"]["holderIdentity"] == "", "let go of"
        probe = ToldProbe(tmp_path / "lacks", "has not asked", tmp_path / "account")
        assert probe.detail.startswith("3 of 3")

    go(test)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
