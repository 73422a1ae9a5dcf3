# SPDX-License-Identifier: Apache-2.0
"""Everything by which the agent can be reached: consoles, status over HTTP, API on a socket and over TLS."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from firstboot import files, paths
from firstboot.codes import Code
from firstboot.config import Config
from firstboot.failure import BasaltError, Failure
from firstboot.report import console
from firstboot.report.status import Status

if TYPE_CHECKING:
    from aiohttp.web import Application

    from firstboot.api.node import Node
    from firstboot.api.server import ApiServer, TlsDoor
    from firstboot.report.http import StatusServer

log = logging.getLogger(__name__)


class Doors:
    """Opens what can be opened, follows the document, and says which door stays shut and why."""

    def __init__(self, agent: Node, for_nodes: Callable[[], Application]) -> None:
        """Open nothing yet; for_nodes makes what nodes ask a control plane, once this is one."""
        self._agent = agent
        self._for_nodes = for_nodes
        self._consoles = console.Consoles(console.targets(os.environ.get(console.VARIABLE)))
        self._painter: asyncio.Task[None] | None = None
        self._status: StatusServer | None = None
        self._api: ApiServer | None = None
        self._nodes: TlsDoor | None = None

    def show(self, status: Status) -> None:
        """Put the status on the consoles."""
        if self._painter is None:
            self._painter = asyncio.create_task(self._consoles.run())
        self._consoles.show(status)

    async def follow(self, config: Config | None) -> tuple[Failure, ...]:
        """Listen as the document says, or by default without one; return what could not be opened.

        The servers are imported here, after the first services were started: that takes seconds.
        """
        from firstboot.api.server import ApiServer
        from firstboot.report.http import DEFAULT_LISTEN, StatusServer

        self._status = self._status or StatusServer(self._agent.status)
        self._api = self._api or ApiServer(self._agent)
        listen = config.status.listen if config else DEFAULT_LISTEN
        failures = []
        try:
            await self._api.listen_local(paths.API_SOCKET)
        except BasaltError as error:
            failures.append(_shut("api.socket", error))
        try:
            await self._status.listen(listen)
            self._consoles.status_port = self._status.port or self._consoles.status_port
        except BasaltError as error:
            failures.append(_shut("basalt.status.listen", error))
        try:
            await self._follow_tls(self._api, config)
        except BasaltError as error:
            failures.append(_shut("basalt.access.client-ca", error))
        try:
            await self._follow_nodes(config)
        except BasaltError as error:
            failures.append(_shut("basalt.cluster", error))
        return tuple(failures)

    async def close(self) -> None:
        """Close everything."""
        if self._painter:
            self._painter.cancel()
            await asyncio.gather(self._painter, return_exceptions=True)
        if self._api:
            await self._api.close()
        if self._nodes:
            await self._nodes.close()
        if self._status:
            await self._status.close()

    async def _follow_tls(self, api: ApiServer, config: Config | None) -> None:
        """Let in over TLS who holds a certificate of the document's authority; nobody without one."""
        from firstboot.api.access import Tls

        certificate = paths.PKI / "basalt-api.crt"
        if config is None or config.access.client_ca is None or not certificate.exists():
            await api.close_tls()
            return
        await api.listen_tls(Tls(certificate, paths.PKI / "basalt-api.key", (config.access.client_ca,)))

    async def _follow_nodes(self, config: Config | None) -> None:
        """On a control plane, let machines ask to join and nodes for certificates: by the cluster's CA alone."""
        certificate, authority = (
            paths.PKI / "basalt-api.crt",
            files.read_or_none(paths.PKI / "ca-trusted.crt"),
        )
        if (
            config is None
            or not config.role.has_control_plane
            or authority is None
            or not certificate.exists()
        ):
            if self._nodes:
                await self._nodes.close()
            return
        from firstboot.api import nodes
        from firstboot.api.access import Tls
        from firstboot.api.server import TlsDoor

        if self._nodes is None:
            self._nodes = TlsDoor(self._for_nodes)
        tls = Tls(certificate, paths.PKI / "basalt-api.key", (authority.decode(),), required=False)
        await self._nodes.listen(tls, nodes.DEFAULT_LISTEN)


def _shut(path: str, error: BasaltError) -> Failure:
    hint = error.hint or "It is tried again every few seconds."
    return Failure(Code.CANNOT_LISTEN, path, str(error), hint)
