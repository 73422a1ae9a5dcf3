# SPDX-License-Identifier: Apache-2.0
"""Objects followed over a real HTTP server that lists and watches as the API server does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import web

from firstboot import mirror
from firstboot.kube import Client
from firstboot.mirror import Mirror
from firstboot.probes import ToldProbe
from tests.unit.test_kube import served, without_tls

Event = dict[str, Any]


def pod(name: str, version: int, address: str = "") -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", "resourceVersion": str(version)}
    return {"metadata": metadata, "status": {"podIP": address}}


def happens(kind: str, obj: dict[str, Any]) -> Event:
    return {"type": kind, "object": obj}


GONE = happens("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})


class Api:
    """Each list of pods that is asked for, then what happens in each watch; the last watch goes on without an event."""

    def __init__(self, lists: list[list[dict[str, Any]]], watches: list[list[Event]]) -> None:
        self.lists, self.watches, self.asked = lists, watches, list[str]()
        self.over = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            if not self.lists:
                return web.json_response({"message": "not now"}, status=503)
            items = self.lists.pop(0)
            rest, page = int(request.query.get("continue", 0)), int(request.query["limit"])
            metadata = {"resourceVersion": "10"}
            if items[rest + page :]:
                metadata["continue"] = str(rest + page)
                self.lists.insert(0, items)
            return web.json_response({"metadata": metadata, "items": items[rest : rest + page]})
        self.asked.append(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        if not self.watches:
            await self.over.wait()
            return response
        text = "".join(json.dumps(event) + "\n" for event in self.watches.pop(0))
        # Events do not end where pieces of the stream do.
        for start in range(0, len(text), 70):
            await response.write(text[start : start + 70].encode())
            await asyncio.sleep(0)
        return response


def followed(
    monkeypatch: pytest.MonkeyPatch, api: Api, until: Callable[[Mirror[str]], bool]
) -> tuple[Mirror[str], list[dict[str, str]]]:
    """Follow until something is so; return the mirror and what it had after each change."""
    monkeypatch.setattr(mirror, "FIRST_PAUSE", 0.01)
    states: list[dict[str, str]] = []

    async def follow() -> Mirror[str]:
        end = asyncio.Event()

        def changed() -> None:
            states.append(dict(pods.objects))
            if until(pods):
                end.set()

        async with served(api.handle) as url, Client() as client:
            without_tls(monkeypatch, url)
            pods = Mirror(client, "/api/v1/pods", lambda each: each["status"]["podIP"] or None, changed)
            following = asyncio.create_task(pods.follow())
            await asyncio.wait_for(end.wait(), 10)
            api.over.set()
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
        return pods

    return asyncio.run(follow()), states


def test_a_list_and_what_happens_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [
        happens("ADDED", pod("b", 11, "10.1.0.3")),
        happens("MODIFIED", pod("b", 12, "10.1.0.3")),
        happens("MODIFIED", pod("a", 13)),
        happens("BOOKMARK", pod("", 14)),
        happens("DELETED", pod("b", 15)),
    ]
    api = Api([[pod("a", 9, "10.1.0.2"), pod("waits", 9)]], [events])
    pods, states = followed(monkeypatch, api, lambda pods: pods.synced and not pods.objects)
    first = {"default/a": "10.1.0.2"}
    assert states == [first, {**first, "default/b": "10.1.0.3"}, {"default/b": "10.1.0.3"}, {}]
    assert pods.reason is None


def test_a_long_list_comes_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "PAGE", 2)
    api = Api([[pod(str(number), 9, f"10.1.0.{number}") for number in range(5)]], [])
    _, states = followed(monkeypatch, api, lambda pods: pods.synced)
    assert states == [{f"default/{number}": f"10.1.0.{number}" for number in range(5)}]


def test_a_watch_that_ends_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api([[]], [[happens("BOOKMARK", pod("", 17))], [happens("ADDED", pod("a", 18, "10.1.0.2"))]])
    followed(monkeypatch, api, lambda pods: bool(pods.objects))
    assert api.asked[:2] == ["10", "17"]


def test_a_version_that_is_not_known_any_more_means_a_new_list(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api([[pod("a", 9, "10.1.0.2")], [pod("b", 9, "10.1.0.3")]], [[GONE]])
    _, states = followed(monkeypatch, api, lambda pods: "default/b" in pods.objects)
    assert states == [{"default/a": "10.1.0.2"}, {"default/b": "10.1.0.3"}]


def test_what_was_known_stays_while_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = happens("ERROR", {"kind": "Status", "code": 500, "message": "no leader"})
    api = Api([[pod("a", 9, "10.1.0.2")]], [[refusal]])
    pods, _ = followed(monkeypatch, api, lambda pods: "503" in str(pods.reason))
    assert pods.objects == {"default/a": "10.1.0.2"}
    assert pods.reason == "GET /api/v1/pods?limit=500: 503: not now"


def test_a_service_keeps_what_it_lacks_in_a_file(tmp_path: Any) -> None:
    probe = ToldProbe(tmp_path / "told", "has not looked yet")

    async def ask() -> str | None:
        async with Client() as client:
            return await probe(client)

    assert asyncio.run(ask()) == "has not looked yet"
    probe.path.write_text("10.0.0.1 is taken\n")
    assert asyncio.run(ask()) == "10.0.0.1 is taken"
    probe.path.write_text("")
    assert asyncio.run(ask()) is None
