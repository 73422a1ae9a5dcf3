# SPDX-License-Identifier: Apache-2.0
"""Who may use the API: root over the unix socket, and holders of a client certificate over TLS."""

from __future__ import annotations

import hashlib
import socket
import ssl
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from firstboot.api.errors import ApiCode, ApiError, Handler
from firstboot.failure import BasaltError

UCRED = struct.Struct("3i")
"""struct ucred: process, user and group of the peer, see unix(7)."""


@dataclass(frozen=True)
class Tls:
    """What the HTTPS side needs.

    certificate, key: files of the server's certificate chain and key
    client_cas:       PEM texts; client certificates have to be signed by one of them
    required:         whether nobody is let in without a client certificate
    """

    certificate: Path
    key: Path
    client_cas: tuple[str, ...]
    required: bool = True

    def fingerprint(self) -> str:
        """Return a digest of everything that matters, to see whether it changed. Raises BasaltError."""
        digest = hashlib.sha256()
        try:
            parts = [self.certificate.read_bytes(), self.key.read_bytes()]
        except OSError as error:
            raise BasaltError(f"{error.filename} cannot be read: {error.strerror}") from None
        for part in (*parts, *(text.encode() for text in self.client_cas)):
            digest.update(hashlib.sha256(part).digest())
        return digest.hexdigest()

    def context(self) -> ssl.SSLContext:
        """Return a context that judges client certificates. Raises BasaltError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED if self.required else ssl.CERT_OPTIONAL
        # A given client CA may be an intermediate one: it is trusted itself, whoever signed it.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        # Without tickets every connection is judged by the authorities of now.
        context.num_tickets = 0
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise BasaltError(f"the API's certificate {self.certificate} cannot be used: {error}") from None
        try:
            for pem in self.client_cas:
                context.load_verify_locations(cadata=pem)
        except (ValueError, ssl.SSLError) as error:
            raise BasaltError(
                f"a client CA cannot be used: {error}", "access.client-ca takes certificates in PEM form."
            ) from None
        return context


def middleware(users: Collection[int]) -> Middleware:
    """Return a middleware that lets pass peers with a verified certificate, and local ones by user id."""

    @web.middleware
    async def authorize(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not (_has_certificate(request) or _peer_user(request) in users):
            raise ApiError(
                ApiCode.FORBIDDEN, "only root may use this socket", "Run the command as root, e.g. with sudo."
            )
        return await handler(request)

    return authorize


def info(request: web.Request, name: str) -> Any:
    """Return what the connection knows under a name of asyncio's, None when it is gone."""
    return None if request.transport is None else request.transport.get_extra_info(name)


def caller(request: web.Request) -> str:
    """Return who asks, as people know him: the common name in his certificate, or root on the node."""
    tls = info(request, "ssl_object")
    if tls is None:
        return "root"
    subject = dict(part for each in (tls.getpeercert() or {}).get("subject", ()) for part in each)
    return str(subject.get("commonName") or "a certificate without a name")


def _has_certificate(request: web.Request) -> bool:
    """Whether TLS demanded and got a certificate; its signature was judged in the handshake."""
    tls = info(request, "ssl_object")
    return tls is not None and tls.context.verify_mode is ssl.CERT_REQUIRED and bool(tls.getpeercert(True))


def _peer_user(request: web.Request) -> int | None:
    sock = info(request, "socket")
    if sock is None or sock.family is not socket.AF_UNIX:
        return None
    _pid, user, _group = UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    return int(user)
