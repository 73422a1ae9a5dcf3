# SPDX-License-Identifier: Apache-2.0
"""What both of the node's web servers share: sockets, limits, and headers that tell nothing needlessly."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from firstboot.failure import BasaltError

if TYPE_CHECKING:
    from aiohttp import web

HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Set on every answer that does not set them itself."""

SHUTDOWN = 2.0
"""Seconds a running answer has to end when its server is closed."""

HANDSHAKE = 10.0
"""Seconds a client has for the TLS handshake."""


@dataclass(frozen=True)
class Limits:
    """What one server grants to all of its clients.

    connections: at the same time; more are closed at once
    lifetime:    seconds of one connection whatever it does, None for no end
    body:        bytes of a request
    """

    connections: int
    lifetime: float | None
    body: int


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of "host:port" or "[v6]:port"; raises BasaltError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not (host and colon and port.isdecimal() and int(port) < 65536):
        raise BasaltError(
            f"{text!r} is no address to listen on", 'Write it as "0.0.0.0:9180" or "[::]:9180".'
        )
    return host, int(port)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket; port 0 takes any free one. Raises BasaltError.

    An address that no interface has yet is fine: the network may come up later than the server.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        if family is socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((host, port))
        sock.listen(64)
    except OSError as error:
        sock.close()
        raise _cannot_listen(host, port, error) from None
    return sock


IP_FREEBIND = 15
"""From linux/in.h; Python 3.11's socket module does not name it."""


def _cannot_listen(host: str, port: int, error: OSError) -> BasaltError:
    hint = "Something else has this port." if error.errno == errno.EADDRINUSE else ""
    return BasaltError(f"cannot listen on {host}, port {port}: {error.strerror}", hint)


class Site:
    """An aiohttp application that is being served on one listening socket."""

    def __init__(self, runner: web.AppRunner, server: asyncio.Server) -> None:
        self._runner = runner
        self._server = server

    @classmethod
    async def open(
        cls,
        app: web.Application,
        sock: socket.socket,
        limits: Limits,
        context: ssl.SSLContext | None = None,
        *,
        cancel: bool = False,
    ) -> Self:
        """Serve the application on the socket, which then belongs to the site.

        cancel: end a handler whose client has gone
        """
        from aiohttp import web

        _hush()
        runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            handler_cancellation=cancel,
            keepalive_timeout=15,
            max_line_size=4096,
            max_field_size=4096,
            shutdown_timeout=SHUTDOWN,
        )
        await runner.setup()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _protocol(runner, limits),
            sock=sock,
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE if context else None,
        )
        return cls(runner, server)

    async def close(self) -> None:
        """Stop listening, let running answers end, and close every connection."""
        self._server.close()
        await self._runner.cleanup()


def _protocol(runner: web.AppRunner, limits: Limits) -> asyncio.BaseProtocol:
    server = runner.server
    assert server is not None
    if len(server.connections) >= limits.connections:
        return _Refusal()
    protocol = server()
    if limits.lifetime is not None:
        asyncio.get_running_loop().call_later(limits.lifetime, _abort, protocol)
    return protocol


def _abort(protocol: asyncio.BaseProtocol) -> None:
    transport = getattr(protocol, "transport", None)
    if transport is not None:
        transport.abort()


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Complete the headers of an answer; for an application's on_response_prepare."""
    response.headers.pop("Server", None)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def _hush() -> None:
    """Keep versions out of the answers to malformed requests, which no application gets to see."""
    from aiohttp import web_response

    vars(web_response)["SERVER_SOFTWARE"] = "basalt"
