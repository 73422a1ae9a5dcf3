# SPDX-License-Identifier: Apache-2.0
"""What the API has about the rotation of the cluster's CA: it begins, ends, or is taken back."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from firstboot.api import access
from firstboot.api.answers import as_json
from firstboot.api.errors import ApiCode, ApiError, flag
from firstboot.api.node import Node
from firstboot.cluster.rotator import Brought


def add_routes(app: web.Application, node: Node) -> None:
    """Add the requests to the API."""
    handlers = Handlers(node)
    app.router.add_post("/v1/certificates/rotate-ca", handlers.begin)
    app.router.add_post("/v1/certificates/rotate-ca/request", handlers.request)
    app.router.add_post("/v1/certificates/rotate-ca/finish", handlers.finish)
    app.router.add_post("/v1/certificates/rotate-ca/cancel", handlers.cancel)


class Handlers:
    """The handlers."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def begin(self, request: web.Request) -> web.Response:
        """Begin a rotation, or say what it would be."""
        brought, dry = _brought(await request.read()), flag(request, "dry-run")
        return as_json((await self._node.rotator.begin(access.caller(request), brought, dry=dry)).to_dict())

    async def request(self, _request: web.Request) -> web.Response:
        """Make a key for an authority that somebody else signs, and tell the signing request."""
        return as_json({"request": await self._node.rotator.request()})

    async def finish(self, request: web.Request) -> web.Response:
        """End it: the old authority is forgotten."""
        without = [name for name in request.query.get("without", "").split(",") if name]
        return as_json((await self._node.rotator.finish(without)).to_dict())

    async def cancel(self, _request: web.Request) -> web.Response:
        """Take it back: the new authority is forgotten."""
        return as_json((await self._node.rotator.cancel()).to_dict())


def _brought(body: bytes) -> Brought | None:
    """Return the authority that somebody brings, None for an empty body; the key is not repeated in any error."""
    if not body:
        return None
    try:
        said: Any = json.loads(body)
        certificate, key = said["certificate"], said.get("key")
    except (ValueError, KeyError, TypeError, AttributeError):
        certificate = key = None
    if not isinstance(certificate, str) or not isinstance(key, str | None):
        raise ApiError(
            ApiCode.BAD_REQUEST,
            "the body is no authority",
            'Send nothing, or {"certificate": PEM, "key": PEM}; without a key for one that was requested here.',
        )
    return Brought(certificate.encode(), None if key is None else key.encode())
