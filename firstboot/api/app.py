# SPDX-License-Identifier: Apache-2.0
"""The routes of the REST API; schemas/api.openapi.json describes them for readers and programs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from urllib.parse import urlsplit

from aiohttp import web

from firstboot import run, schema
from firstboot.api import access, datastore, errors, logs, moving, rotation, settings
from firstboot.api.answers import as_json
from firstboot.api.errors import ApiCode, ApiError, flag
from firstboot.api.leaving import Leaving
from firstboot.api.node import Node
from firstboot.config import Role
from firstboot.failure import DocumentError
from firstboot.report.web import Limits, add_headers

LIMITS = Limits(connections=64, lifetime=None, body=1024 * 1024)

DEFAULT_LIFETIME, LONGEST_LIFETIME = 3600, 7 * 86400
"""Seconds that a one-time token may be used in."""

LOG_SECONDS = 300.0
"""Longest time to read lines that are there already."""
FOLLOW_SECONDS = 12 * 3600.0
"""Longest time to follow a journal; a forgotten terminal must not do so for ever."""
STREAMS = 8
"""Journals that can be read at once: each costs a process."""


def application(node: Node, users: Collection[int] = (0,)) -> web.Application:
    """Return the API over ``node``; users are those who may use it over a unix socket."""
    app = web.Application(
        client_max_size=LIMITS.body, middlewares=[errors.middleware, access.middleware(users)]
    )
    api = Api(node)
    for path, handler in api.reads().items():
        app.router.add_get(path, handler, allow_head=False)
    app.router.add_post("/v1/validate", api.validate)
    app.router.add_post("/v1/join-tokens", api.join_token)
    datastore.add_routes(app, node)
    moving.add_routes(app, node)
    settings.add_routes(app, node)
    rotation.add_routes(app, node)
    leaving = Leaving(node)
    app.router.add_post("/v1/remove-node", leaving.remove_node)
    app.router.add_post("/v1/reset", leaving.reset)
    app.on_response_prepare.append(add_headers)
    return app


class Api:
    """The handlers."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._streams = asyncio.Semaphore(STREAMS)

    def reads(self) -> dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]]:
        """Return what can be read: path -> handler."""
        return {
            "/v1/status": self.status,
            "/v1/plan": self.plan,
            "/v1/kubeconfig": self.kubeconfig,
            "/v1/certificates": self.certificates,
            "/v1/logs": self.logs,
            "/v1/version": self.version,
            "/openapi.json": self.description,
            "/status.schema.json": self.status_schema,
        }

    async def status(self, _request: web.Request) -> web.Response:
        """Return the status document."""
        return as_json(self._node.status().to_dict())

    async def plan(self, _request: web.Request) -> web.Response:
        """Return what the agent would do now."""
        return as_json({"steps": [step.to_dict() for step in await self._node.plan()]})

    async def kubeconfig(self, request: web.Request) -> web.Response:
        """Return an administrator's kubeconfig."""
        server = request.query.get("server")
        if server is not None:
            _check_url(server)
        return web.Response(text=await self._node.kubeconfig(server), content_type="application/yaml")

    async def certificates(self, _request: web.Request) -> web.Response:
        """Return whose certificates the node has, until when, and how the rotation of the CA stands."""
        listed = [each.to_dict() for each in await self._node.certificates()]
        standing = await self._node.rotator.standing()
        return as_json({"certificates": listed, "rotation": standing.to_dict() if standing else None})

    async def version(self, _request: web.Request) -> web.Response:
        """Return which versions run here."""
        status = self._node.status()
        return as_json({"api": "v1", "basalt": status.image.version, "kubernetes": status.kubernetes})

    async def validate(self, request: web.Request) -> web.Response:
        """Check a document without using it; having failures is a result, not an error."""
        content = await request.read()
        # A document may take a slow machine a second, which is too long for everybody else.
        failures = await asyncio.to_thread(_failures, content)
        return as_json({"failures": failures})

    async def join_token(self, request: web.Request) -> web.Response:
        """Make a one-time token for joining."""
        role, lifetime = request.query.get("role"), request.query.get("lifetime", str(DEFAULT_LIFETIME))
        if role is not None and role not in tuple(Role):
            found = f"there is no role {role!r}"
            raise ApiError(ApiCode.BAD_REQUEST, found, f"Use one of {', '.join(Role)}.", "role")
        if not (lifetime.isascii() and lifetime.isdigit() and 0 < int(lifetime[:9]) <= LONGEST_LIFETIME):
            found = f"{lifetime!r} is no lifetime"
            remedy = f"Use a number of seconds from 1 to {LONGEST_LIFETIME}."
            raise ApiError(ApiCode.BAD_REQUEST, found, remedy, "lifetime")
        made = await self._node.join_token(Role(role) if role else None, int(lifetime))
        return as_json(made.to_dict())

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """Stream the journal of one component."""
        command = _log_command(request)
        if self._streams.locked():
            raise ApiError(
                ApiCode.TOO_MANY, f"{STREAMS} journals are being read already", "End one of them, or wait."
            )
        follow = "--follow" in command
        async with (
            self._streams,
            run.stream(command, timeout=FOLLOW_SECONDS if follow else LOG_SECONDS) as pieces,
        ):
            response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
            await response.prepare(request)
            async for piece in pieces:
                await response.write(piece)
        # Not before journalctl has ended: a client that has all it wanted goes, and nobody would wait for it any more.
        await response.write_eof()
        return response

    async def description(self, _request: web.Request) -> web.Response:
        """Return the description of this API."""
        return web.Response(text=description(), content_type="application/json")

    async def status_schema(self, _request: web.Request) -> web.Response:
        """Return the JSON Schema of the status document, which the description refers to."""
        return as_json(schema.load("status"))


def description() -> str:
    """Return the text of schemas/api.openapi.json."""
    places = (place / "api.openapi.json" for place in schema.PLACES)
    return next(place for place in places if place.is_file()).read_text(encoding="utf-8")


def _failures(content: bytes) -> list[dict[str, str]]:
    from firstboot.validate import check_bytes

    try:
        check_bytes(content, "request")
    except DocumentError as error:
        return [failure.to_dict() for failure in error.failures]
    return []


def _check_url(server: str) -> None:
    try:
        url = urlsplit(server)
        good = url.scheme == "https" and bool(url.hostname) and (url.port or 1) > 0 and server.isprintable()
        good = good and not (url.username or url.password or url.query or url.fragment or " " in server)
    except ValueError:
        good = False
    if not good:
        remedy = "Give the API server's address as a URL such as https://192.0.2.7:6443."
        raise ApiError(ApiCode.BAD_REQUEST, f"{server!r} is no https URL", remedy, "server")


def _log_command(request: web.Request) -> list[str]:
    component = request.query.get("component", "")
    if component not in logs.UNITS:
        found = f"there is no component {component!r}"
        raise ApiError(ApiCode.BAD_REQUEST, found, f"Use one of {', '.join(logs.UNITS)}.", "component")
    lines = request.query.get("lines", str(logs.DEFAULT_LINES))
    if not (lines.isascii() and lines.isdigit() and 0 <= int(lines[:9]) <= logs.MAX_LINES and len(lines) < 9):
        found = f"{lines!r} is no number of lines"
        raise ApiError(ApiCode.BAD_REQUEST, found, f"Use a number from 0 to {logs.MAX_LINES}.", "lines")
    return logs.command(component, int(lines), flag(request, "follow"))
