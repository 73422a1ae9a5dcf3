# SPDX-License-Identifier: Apache-2.0
"""The service that enforces policies, before an API server over HTTP; nft is a program that writes down its input."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from firstboot import mirror
from firstboot.kube import Client
from firstboot.policy import nft, service
from firstboot.policy.compile import closed
from firstboot.policy.model import Pod
from firstboot.policy.service import Enforcer, Memory
from tests.unit.test_kube import served, without_tls

NFT = """#!/bin/sh
test -e "{folder}/broken" && echo "out of memory" >&2 && exit 1
number=$(ls "{folder}" | grep -c ^told)
cat > "{folder}/.told-$number" && mv "{folder}/.told-$number" "{folder}/told-$number"
"""
DENY = {
    "metadata": {"namespace": "shop", "name": "deny", "resourceVersion": "1"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
}
SHOP = {"metadata": {"name": "shop", "resourceVersion": "1"}}


def pod(name: str, *addresses: str, started: str = "2020-01-01T00:00:00Z") -> dict[str, Any]:
    running = {"state": {"running": {"startedAt": started}}}
    return {
        "metadata": {"namespace": "shop", "name": name, "resourceVersion": "2"},
        "spec": {"nodeName": "node-1", "containers": []},
        "status": {"podIPs": [{"ip": each} for each in addresses], "containerStatuses": [running]},
    }


class Api:
    """Lists, and what happens after them, by the last part of their paths."""

    def __init__(self) -> None:
        self.lists: dict[str, list[Any]] = {
            "networkpolicies": [DENY],
            "pods": [pod("a", "10.1.0.2")],
            "namespaces": [SHOP],
        }
        self.events: dict[str, asyncio.Queue[Any]] = {name: asyncio.Queue() for name in self.lists}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        name = request.path.rpartition("/")[2]
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": self.lists[name]})
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionResetError):
            while (event := await self.events[name].get()) is not None:
                await response.write(json.dumps(event).encode() + b"\n")
        return response


class Bench:
    """The service at work. told: what nft got, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.api = folder, Api()
        self.lacks = folder / "lacks"

    @property
    def told(self) -> list[str]:
        return [(self.folder / f"told-{n}").read_text() for n in range(len(list(self.folder.glob("told-*"))))]

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.02)


@asynccontextmanager
async def enforcing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, fresh: bool = False
) -> AsyncIterator[Bench]:
    bridge = bench.folder / "cni0"
    if not fresh:
        bridge.mkdir()
    async with served(bench.api.handle) as url, Client() as client:
        without_tls(monkeypatch, url)
        enforcer = Enforcer(client, "node-1", bench.lacks, bridge)
        await enforcer.begin()
        running = asyncio.create_task(enforcer.follow())
        try:
            yield bench
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            for queue in bench.api.events.values():
                queue.put_nowait(None)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "nft"
    program.write_text(NFT.format(folder=tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(mirror, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(service, "RETRY", 0.1)
    return Bench(tmp_path)


def test_policies_are_enforced_and_followed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        async with enforcing(bench, monkeypatch):
            await bench.until(
                lambda: len(bench.told) == 1 and bench.lacks.exists() and bench.lacks.read_text() == ""
            )
            assert bench.told[0].startswith(f"add table {nft.TABLE}\ndelete table")
            assert "10.1.0.2 : jump ingress_" in bench.told[0]
            bench.api.events["pods"].put_nowait({"type": "ADDED", "object": pod("b", "10.1.0.3")})
            await bench.until(lambda: len(bench.told) == 2)
            assert "delete table" not in bench.told[1] and "{ 10.1.0.3 : jump ingress_" in bench.told[1]
            bench.api.events["networkpolicies"].put_nowait({"type": "DELETED", "object": DENY})
            await bench.until(lambda: len(bench.told) == 3)
            assert "delete element inet network-policy ingress4 { 10.1.0.2, 10.1.0.3 }" in bench.told[2]

    asyncio.run(go())


def test_the_kernel_that_refuses_is_told_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        (bench.folder / "broken").touch()
        async with enforcing(bench, monkeypatch):
            await bench.until(lambda: bench.lacks.exists() and "out of memory" in bench.lacks.read_text())
            assert "so the last ones stay" in bench.lacks.read_text()
            (bench.folder / "broken").unlink()
            await bench.until(lambda: bench.lacks.read_text() == "")
            assert "delete table" in bench.told[0], "whatever is there is replaced"

    asyncio.run(go())


def test_a_policy_that_is_not_enforced_as_written_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec: dict[str, Any] = {"podSelector": {}, "ingress": [{"from": [{"serviceSelector": {}}]}]}
    bench.api.lists["networkpolicies"] = [{**DENY, "spec": spec}]

    async def go() -> None:
        async with enforcing(bench, monkeypatch):
            await bench.until(lambda: bench.lacks.exists() and "serviceSelector" in bench.lacks.read_text())
        assert bench.lacks.read_text() == (
            "not enforced as written, but more narrowly: NetworkPolicy shop/deny: "
            "ingress[0].from[0]: no kind of peer that is known: serviceSelector"
        )

    asyncio.run(go())


def test_after_a_power_cut_nothing_passes_until_addresses_are_those_of_now(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API has an address that was the pod's before; another one may have it now."""

    async def go() -> None:
        async with enforcing(bench, monkeypatch, fresh=True):
            await bench.until(lambda: len(bench.told) == 2)
            assert bench.told[0] == nft.whole(closed())
            assert "10.1.0.2" not in bench.told[1]
            again = pod("a", "10.1.0.7", started="2100-01-01T00:00:00Z")
            bench.api.events["pods"].put_nowait({"type": "MODIFIED", "object": again})
            await bench.until(lambda: len(bench.told) == 3)
            assert "10.1.0.7 : jump ingress_" in bench.told[2]

    asyncio.run(go())


def test_a_clock_that_was_put_right_keeps_no_pod_out_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Pod("shop", "a", "node-1", addresses=("10.1.0.2",), started="2020-01-01T00:00:00Z")
    assert Memory(fresh=False).knows(old)
    memory = Memory(fresh=True)
    memory.begin()
    assert not memory.knows(old)
    monkeypatch.setattr(service, "SETTLED", -1.0)
    memory.begin()
    assert memory.knows(old)
    assert not memory.knows(Pod("shop", "b", "node-1")), "it has none"
