# SPDX-License-Identifier: Apache-2.0
"""Serves the API: on a unix socket from the start, over TLS as soon as there are certificates."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection
from pathlib import Path

from aiohttp import web

from firstboot.api import app
from firstboot.api.access import Tls
from firstboot.api.node import Node
from firstboot.failure import BasaltError
from firstboot.report.web import Site, bind, parse_address

DEFAULT_SOCKET = Path("/run/basalt/api.sock")
DEFAULT_LISTEN = "0.0.0.0:6400"


class TlsDoor:
    """An application behind TLS, opened and closed as certificates come and go."""

    def __init__(self, application: Callable[[], web.Application]) -> None:
        self._application = application
        self._site: Site | None = None
        self._socket: socket.socket | None = None
        self._address: str | None = None
        self._fingerprint: str | None = None

    @property
    def port(self) -> int | None:
        """The TCP port it listens on now."""
        return None if self._socket is None else int(self._socket.getsockname()[1])

    async def listen(self, tls: Tls, address: str) -> None:
        """Serve; call it again whenever certificates may have changed.

        Nothing happens where nothing changed. Otherwise new connections are judged by the new certificates
        and old ones are closed, since an authority may have been removed. The port stays open meanwhile.
        Raises BasaltError; unusable certificates and addresses leave what is being served as it was.
        """
        fingerprint = tls.fingerprint()
        if (address, fingerprint) == (self._address, self._fingerprint):
            return
        context = tls.context()
        if address != self._address or self._socket is None:
            await self._move(address)
        assert self._socket is not None
        before = self._site
        self._site = await Site.open(
            self._application(), self._socket.dup(), app.LIMITS, context, cancel=True
        )
        self._fingerprint = fingerprint
        if before is not None:
            await before.close()

    async def close(self) -> None:
        """Stop serving, e.g. when no authority is left that could let anybody in."""
        site, self._site = self._site, None
        if site is not None:
            await site.close()
        if self._socket is not None:
            self._socket.close()
        self._socket = self._address = self._fingerprint = None

    async def _move(self, address: str) -> None:
        # Bound before anything is given up, unless the old socket itself is in the way.
        host, port = parse_address(address)
        try:
            sock = bind(host, port)
        except BasaltError:
            if self._socket is None or port != self.port:
                raise
            await self.close()
            sock = bind(host, port)
        else:
            await self.close()
        self._socket, self._address = sock, address


class ApiServer:
    """Both sides of the administrators' API.

    users: who may use the unix socket, by user id
    """

    def __init__(self, node: Node, users: Collection[int] = (0,)) -> None:
        self._node = node
        self._users = users
        self._local: Site | None = None
        self._remote = TlsDoor(lambda: app.application(node, ()))

    @property
    def port(self) -> int | None:
        """The TCP port it listens on now."""
        return self._remote.port

    async def listen_local(self, path: Path = DEFAULT_SOCKET) -> None:
        """Serve on the unix socket, which replaces one left behind. Raises BasaltError."""
        if self._local is None:
            self._local = await Site.open(
                app.application(self._node, self._users), _bind_local(path), app.LIMITS, cancel=True
            )

    async def listen_tls(self, tls: Tls, address: str = DEFAULT_LISTEN) -> None:
        """Serve over TLS; see TlsDoor.listen."""
        await self._remote.listen(tls, address)

    async def close(self) -> None:
        """Stop serving."""
        await self.close_tls()
        site, self._local = self._local, None
        if site is not None:
            await site.close()

    async def close_tls(self) -> None:
        """Stop serving over TLS."""
        await self._remote.close()


def _bind_local(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        # Set before bind: there must be no moment in which others could connect.
        mask = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(mask)
        sock.listen(64)
    except OSError as error:
        sock.close()
        raise BasaltError(f"cannot listen on {path}: {error.strerror}") from None
    return sock
