# SPDX-License-Identifier: Apache-2.0
"""What the API has about the cluster's settings: what they are and were, who follows them, and changes."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from firstboot.api import access
from firstboot.api.answers import as_json
from firstboot.api.errors import ApiCode, ApiError, flag
from firstboot.api.node import Node, NotYet
from firstboot.cluster.versions import Versions

DIGITS = 9
"""Most digits of a version's number."""


def add_routes(app: web.Application, node: Node) -> None:
    """Add the requests to the API."""
    handlers = Handlers(node)
    app.router.add_get("/v1/settings", handlers.settings, allow_head=False)
    app.router.add_patch("/v1/settings", handlers.change)
    app.router.add_get("/v1/settings/history", handlers.history, allow_head=False)
    app.router.add_get("/v1/settings/nodes", handlers.nodes, allow_head=False)
    app.router.add_post("/v1/settings/revert", handlers.revert)


class Handlers:
    """The handlers."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def settings(self, _request: web.Request) -> web.Response:
        """Return the newest version with every value."""
        from firstboot.cluster.changes import effective

        newest = (await self._versions()).newest
        return as_json({**newest.to_dict(), "settings": effective(newest.settings)})

    async def history(self, _request: web.Request) -> web.Response:
        """Return the versions that are kept, the newest first."""
        kept = (await self._versions()).kept
        return as_json({"versions": [each.to_dict() for each in reversed(kept)]})

    async def nodes(self, _request: web.Request) -> web.Response:
        """Return which version each node follows."""
        newest, nodes = (await self._versions()).newest.number, await self._node.settings.nodes()
        return as_json({"version": newest, "nodes": [each.to_dict() for each in nodes]})

    async def change(self, request: web.Request) -> web.Response:
        """Make a version with the values in the body."""
        wanted, expected, force = (
            await _body(request),
            _number(request, "if-version"),
            flag(request, "force"),
        )
        outcome = await self._node.settings.change(wanted, access.caller(request), expected, force=force)
        return as_json(outcome.to_dict())

    async def revert(self, request: web.Request) -> web.Response:
        """Make a version with the values of an older one."""
        number, expected, force = (
            _number(request, "version"),
            _number(request, "if-version"),
            flag(request, "force"),
        )
        if number is None:
            raise _malformed("no version is given", "Say which: ?version=3.", "version")
        outcome = await self._node.settings.revert(number, access.caller(request), expected, force=force)
        return as_json(outcome.to_dict())

    async def _versions(self) -> Versions:
        found = await self._node.settings.versions()
        if found is None:
            raise NotYet(
                "the cluster has no settings yet", "Ask again when its first control plane is ready."
            )
        return found


async def _body(request: web.Request) -> dict[str, Any]:
    """Return the wanted values by path; whether they can be is not the API's to say."""
    try:
        body = json.loads(await request.read())
    except ValueError:
        raise _malformed("the body is no JSON", "Send an object: key of the document -> value.") from None
    if not (isinstance(body, dict) and body):
        raise _malformed("the body names no setting", "Send an object: key of the document -> value.")
    return body


def _number(request: web.Request, name: str) -> int | None:
    """Return a parameter that is the number of a version, None when it is not given."""
    text = request.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= DIGITS):
        raise _malformed(f"{text!r} is no version", "`basalt get --history` lists them.", name)
    return int(text)


def _malformed(found: str, remedy: str, path: str = "") -> ApiError:
    return ApiError(ApiCode.BAD_REQUEST, found, remedy, path)
