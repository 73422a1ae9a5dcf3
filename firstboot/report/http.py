# SPDX-License-Identifier: Apache-2.0
"""Serves the status over plain HTTP: page, document, health and metrics; read-only, and without secrets."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from firstboot.report import metrics, page, web
from firstboot.report.status import Status

if TYPE_CHECKING:
    from aiohttp import web as aio

DEFAULT_LISTEN = "0.0.0.0:9180"

LIMITS = web.Limits(connections=64, lifetime=60, body=1024)

Answer = tuple[int, str, str]
"""HTTP status, content type, text."""

TEXT = "text/plain; charset=utf-8"


def answer_page(status: Status) -> Answer:
    """GET / for people."""
    return 200, "text/html; charset=utf-8", page.render(status)


def answer_status(status: Status) -> Answer:
    """GET /v1/status for programs."""
    return 200, "application/json", json.dumps(status.to_dict(), indent=2) + "\n"


def answer_health(_status: Status) -> Answer:
    """GET /healthz: whoever answers is alive."""
    return 200, TEXT, "ok\n"


def answer_ready(status: Status) -> Answer:
    """GET /readyz: 200 in phase ready, else 503 and the reasons, one a line."""
    reasons = status.unready
    return (503, TEXT, "".join(f"{reason}\n" for reason in reasons)) if reasons else (200, TEXT, "ready\n")


def answer_metrics(status: Status) -> Answer:
    """GET /metrics for Prometheus."""
    return 200, metrics.CONTENT_TYPE, metrics.render(status)


ANSWERS: dict[str, Callable[[Status], Answer]] = {
    "/": answer_page,
    "/v1/status": answer_status,
    "/healthz": answer_health,
    "/readyz": answer_ready,
    "/metrics": answer_metrics,
}


def application(status: Callable[[], Status]) -> aio.Application:
    """Return the application; status is called for each request."""
    from aiohttp import web as aio

    def handler(answer: Callable[[Status], Answer]) -> Callable[[aio.Request], Awaitable[aio.Response]]:
        async def handle(_request: aio.Request) -> aio.Response:
            code, content_type, text = answer(status())
            headers = {"Content-Type": content_type}
            if content_type.startswith("text/html"):
                headers["Content-Security-Policy"] = page.POLICY
            return aio.Response(status=code, body=text.encode(), headers=headers)

        return handle

    app = aio.Application(client_max_size=LIMITS.body)
    for path, answer in ANSWERS.items():
        app.router.add_get(path, handler(answer))
    app.on_response_prepare.append(web.add_headers)
    return app


class StatusServer:
    """The status endpoint: listens where it is told to, and moves when it is told otherwise."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status
        self._site: web.Site | None = None
        self.port: int | None = None
        self.address: str | None = None

    async def listen(self, address: str = DEFAULT_LISTEN) -> None:
        """Serve on "host:port"; nothing happens where that is so already.

        Raises BasaltError when it cannot, and then goes on serving where it was.
        """
        if address == self.address:
            return
        host, port = web.parse_address(address)
        before = self.address
        # Closed first: the same port on another address would be in use by ourselves.
        await self.close()
        try:
            await self._open(host, port, address)
        except Exception:
            if before is not None:
                await self._open(*web.parse_address(before), before)
            raise

    async def _open(self, host: str, port: int, address: str) -> None:
        sock = web.bind(host, port)
        self.port = sock.getsockname()[1]
        self._site = await web.Site.open(application(self._status), sock, LIMITS)
        self.address = address

    async def close(self) -> None:
        """Stop serving."""
        site, self._site, self.address = self._site, None, None
        if site is not None:
            await site.close()
