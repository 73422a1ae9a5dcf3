# SPDX-License-Identifier: Apache-2.0
"""The requests by which a node is taken out of its cluster, and by which a machine is reset."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from aiohttp import web

from firstboot.api.answers import as_json
from firstboot.api.errors import BUG, ApiCode, ApiError, flag
from firstboot.api.node import Node
from firstboot.cluster.records import NODE_NAME
from firstboot.failure import BasaltError, DocumentError, Failure

if TYPE_CHECKING:
    from firstboot.cluster.removal import Progress

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT, LONGEST_TIMEOUT = 600, 86400
"""Seconds in which the pods of a node that is removed have to go."""


class Leaving:
    """The handlers."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._turn = asyncio.Lock()

    async def remove_node(self, request: web.Request) -> web.StreamResponse:
        """Take a node out and say how it goes, a JSON object a line; the last one tells how it ended."""
        name, force, timeout = _name(request), flag(request, "force"), _timeout(request)
        if self._turn.locked():
            raise ApiError(ApiCode.TOO_MANY, "a node is being removed already", "Wait until that is done.")
        async with self._turn:
            removal = await self._node.remove_node(name, force, timeout)
            response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
            await response.prepare(request)
            async for line in _lines(removal):
                await response.write(json.dumps(line).encode() + b"\n")
            await response.write_eof()
            return response

    async def reset(self, request: web.Request) -> web.Response:
        """Begin a factory reset."""
        name = await self._node.reset(flag(request, "force"))
        return as_json({"node": name})


async def _lines(removal: AsyncIterator[Progress]) -> AsyncIterator[dict[str, Any]]:
    """Return what is said about a removal; an answer that has begun can tell what went wrong only in itself."""
    try:
        async for progress in removal:
            yield progress.to_dict()
    except DocumentError as error:
        yield _failed(*error.failures)
    except BasaltError as error:
        remedy = error.hint or "Run it again: it goes on where it stopped."
        yield _failed(Failure(ApiCode.FAILED.value, "", str(error), remedy))
    except Exception:
        log.exception("a removal ended by a bug")
        yield _failed(BUG)
    else:
        yield {"done": True}


def _failed(*failures: Failure) -> dict[str, Any]:
    return {"failures": [failure.to_dict() for failure in failures]}


def _name(request: web.Request) -> str:
    name = request.query.get("name", "")
    if not NODE_NAME.fullmatch(name):
        raise ApiError(
            ApiCode.BAD_REQUEST, f"{name!r} is no node's name", "`kubectl get nodes` lists them.", "name"
        )
    return name


def _timeout(request: web.Request) -> int:
    text = request.query.get("timeout", str(DEFAULT_TIMEOUT))
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= LONGEST_TIMEOUT and len(text) < 9):
        remedy = f"Use a number of seconds from 1 to {LONGEST_TIMEOUT}."
        raise ApiError(ApiCode.BAD_REQUEST, f"{text!r} is no time", remedy, "timeout")
    return int(text)
