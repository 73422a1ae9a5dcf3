# SPDX-License-Identifier: Apache-2.0
"""What the API has about the datastore: how it stands, backups and restores."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TypeVar

from aiohttp import BodyPartReader, MultipartReader, web

from firstboot.api.answers import as_json
from firstboot.api.errors import ApiCode, ApiError, flag
from firstboot.api.node import Node
from firstboot.backup import kept
from firstboot.backup.custodian import LONGEST
from firstboot.backup.locks import Opener, Passphrase, PrivateKey, Recipient, Sealer
from firstboot.failure import BasaltError

log = logging.getLogger(__name__)

SECRET_BYTES = 16 * 1024
"""Most bytes of a passphrase or a key."""
PIECE = 1024 * 1024

SEALERS: Mapping[str, Callable[[str], Sealer]] = {"passphrase": Passphrase, "recipient": Recipient.of}
OPENERS: Mapping[str, Callable[[str], Opener]] = {"passphrase": Passphrase, "key": PrivateKey.of}
"""Name of a value in a request -> what reads it."""


def add_routes(app: web.Application, node: Node) -> None:
    """Add the requests to the API."""
    handlers = Handlers(node)
    app.router.add_get("/v1/datastore", handlers.status, allow_head=False)
    app.router.add_post("/v1/datastore/backup", handlers.backup)
    app.router.add_post("/v1/datastore/restore", handlers.restore)
    app.router.add_post("/v1/datastore/recover", handlers.recover)
    app.router.add_post("/v1/datastore/defragment", handlers.defragment)
    app.router.add_get("/v1/datastore/backups", handlers.backups, allow_head=False)
    app.router.add_get("/v1/datastore/backups/{name}", handlers.fetch, allow_head=False)


class Handlers:
    """The handlers."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def status(self, _request: web.Request) -> web.Response:
        """Return how the datastore stands."""
        return as_json((await self._node.datastore.status()).to_dict())

    async def defragment(self, _request: web.Request) -> web.Response:
        """Give back what deleted data takes on the disk."""
        datastore = self._node.datastore
        before = (await datastore.status()).size
        await datastore.defragment()
        return as_json({"before": before, "after": (await datastore.status()).size})

    async def backup(self, request: web.Request) -> web.StreamResponse:
        """Send a backup as it is made."""
        sealer = await _sealer(request)
        async with self._node.datastore.backup(sealer) as taken:
            response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
            await response.prepare(request)
            try:
                async with asyncio.timeout(LONGEST):
                    async for piece in taken.pieces():
                        await response.write(piece)
                await response.write_eof()
            except (BasaltError, OSError) as error:
                # There is no other way left to say so: the end of the file is missing, and its reader sees it.
                log.warning("a backup was not sent to its end: %s", error)
                if request.transport is not None:
                    request.transport.close()
            return response

    async def restore(self, request: web.Request) -> web.Response:
        """Take a backup that this node shall become; the answer says that it is decided, not that it is done."""
        if request.content_type != "multipart/form-data":
            raise _malformed("the body is no multipart/form-data", "")
        reader = await request.multipart()
        opener = await _opener(await _part(reader))
        part = await _part(reader)
        if part.name != "backup":
            raise _malformed(f"the second part is {part.name!r} and not the backup", "backup")
        header = await self._node.datastore.restore(opener, _pieces(part))
        return as_json(
            {"cluster": header.cluster, "created": header.created, "revision": header.revision}, status=202
        )

    async def recover(self, request: web.Request) -> web.Response:
        """Have the node go on without the members that are lost; with dry-run, tell what that would be."""
        keeper = self._node.datastore
        if flag(request, "dry-run"):
            return as_json((await keeper.survey()).to_dict())
        return as_json((await keeper.recover()).to_dict(), status=202)

    async def backups(self, _request: web.Request) -> web.Response:
        """Return which backups the node keeps by itself."""
        found = await asyncio.to_thread(kept.listed, self._node.datastore.kept())
        return as_json({"backups": [each.to_dict() for each in found]})

    async def fetch(self, request: web.Request) -> web.FileResponse:
        """Return one of those that are listed: a name is never made into a path that is not."""
        folder, name = self._node.datastore.kept(), request.match_info["name"]
        if name not in {each.name for each in await asyncio.to_thread(kept.listed, folder)}:
            found, remedy = "the node keeps no backup of that name", "See `basalt datastore backups`."
            raise ApiError(ApiCode.NOT_FOUND, found, remedy, "name")
        return web.FileResponse(folder / name, headers={"Content-Type": "application/octet-stream"})


async def _sealer(request: web.Request) -> Sealer:
    try:
        body = json.loads(await request.read())
    except ValueError:
        raise _malformed("the body is no JSON", "") from None
    if not (
        isinstance(body, dict) and len(body) == 1 and all(isinstance(each, str) for each in body.values())
    ):
        raise _malformed("the body is no object with a passphrase or a recipient", "")
    ((name, text),) = body.items()
    return await _read(SEALERS, name, text)


async def _opener(part: BodyPartReader) -> Opener:
    text = b""
    async for piece in _pieces(part):
        text += piece
        if len(text) > SECRET_BYTES:
            raise _malformed(f"it has more than {SECRET_BYTES} bytes", str(part.name))
    try:
        return await _read(OPENERS, str(part.name), text.decode())
    except UnicodeDecodeError:
        raise _malformed("it is no text", str(part.name)) from None


T = TypeVar("T", Sealer, Opener)


async def _read(readers: Mapping[str, Callable[[str], T]], name: str, text: str) -> T:
    """Return what a value of that name is for. Raises ApiError, which never repeats the value."""
    if name not in readers:
        raise _malformed(f"there is no {name!r}", "", f"Give {' or '.join(readers)}.")
    try:
        # The first use of keys loads a library, which takes a small machine a second.
        return await asyncio.to_thread(readers[name], text)
    except BasaltError as error:
        raise ApiError(ApiCode.BAD_REQUEST, str(error), error.hint, name) from None


async def _part(reader: MultipartReader) -> BodyPartReader:
    try:
        part = await reader.next()
    except ValueError:
        part = None
    if not isinstance(part, BodyPartReader):
        raise _malformed("a part of the body is missing", "")
    return part


async def _pieces(part: BodyPartReader) -> AsyncIterator[bytes]:
    try:
        while piece := await part.read_chunk(PIECE):
            yield piece
    except ValueError:
        raise _malformed("the body ends too early", str(part.name)) from None


def _malformed(found: str, path: str, remedy: str = "See GET /openapi.json.") -> ApiError:
    return ApiError(ApiCode.BAD_REQUEST, found, remedy, path)
