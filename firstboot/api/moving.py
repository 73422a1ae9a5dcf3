# SPDX-License-Identifier: Apache-2.0
"""What the API has about moving the datastore to the other kind."""

from __future__ import annotations

from aiohttp import web

from firstboot.api.answers import as_json
from firstboot.api.errors import ApiCode, ApiError, flag
from firstboot.api.node import Node
from firstboot.config import DatastoreType

KINDS = {each.value: each for each in DatastoreType if each.is_ours}


def add_routes(app: web.Application, node: Node) -> None:
    """Add the requests to the API."""
    handlers = Handlers(node)
    app.router.add_post("/v1/datastore/move", handlers.move)
    app.router.add_post("/v1/datastore/forget", handlers.forget)


class Handlers:
    """The handlers."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def move(self, request: web.Request) -> web.Response:
        """Have the datastore become the other one; with dry-run, tell what that would be."""
        to = request.query.get("to", "")
        if to not in KINDS:
            raise ApiError(ApiCode.BAD_REQUEST, f"{to!r} is none", f"Use one of {', '.join(KINDS)}.", "to")
        if flag(request, "dry-run"):
            return as_json((await self._node.mover.forecast(KINDS[to])).to_dict())
        return as_json((await self._node.mover.move(KINDS[to])).to_dict(), status=202)

    async def forget(self, _request: web.Request) -> web.Response:
        """Remove the data of before the last move."""
        await self._node.mover.forget()
        return as_json({})
