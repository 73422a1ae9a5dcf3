# SPDX-License-Identifier: Apache-2.0
"""What nodes ask a control plane for, on a port of its own: its clients are strangers and nodes, never people."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable
from typing import Any

from aiohttp import web

from firstboot.api import errors
from firstboot.api.access import info
from firstboot.api.answers import as_json
from firstboot.api.errors import ApiCode, ApiError
from firstboot.cluster.admission import Admission
from firstboot.cluster.messages import (
    CA_KEY,
    CERTIFICATES,
    FENCE,
    HELLO,
    JOIN,
    PARTNER,
    PORT,
    Hello,
    Message,
    Partner,
    Renewal,
    Request,
    Standing,
    Wanted,
)
from firstboot.codes import Code
from firstboot.failure import DocumentError, Failure
from firstboot.kube import KubeError
from firstboot.moving.messages import MOVE, REST, Question, Rest
from firstboot.moving.mover import Mover
from firstboot.moving.partaker import Partaker
from firstboot.pki.catalogue import ADMINISTRATORS, CONTROL_PLANE_AGENT, NODES
from firstboot.report.web import add_headers

DEFAULT_LISTEN = f"0.0.0.0:{PORT}"
BODY = 256 * 1024
"""Most bytes of a request: a dozen signing requests take ten thousand."""
AGENT_NAME = re.compile(r"basalt:node:(.+)")


def application(admission: Admission) -> web.Application:
    """Return the six calls over an admission."""
    app = web.Application(client_max_size=BODY, middlewares=[errors.middleware])
    nodes = Nodes(admission)
    app.router.add_post(HELLO, nodes.hello)
    app.router.add_post(JOIN, nodes.join)
    app.router.add_post(CERTIFICATES, nodes.certificates)
    app.router.add_post(FENCE, nodes.fence)
    app.router.add_post(CA_KEY, nodes.ca_key)
    app.router.add_post(PARTNER, nodes.partner)
    app.on_response_prepare.append(add_headers)
    return app


class Nodes:
    """The handlers."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def hello(self, request: web.Request) -> web.Response:
        """Prove to be the cluster of a token."""
        hello = Hello.from_dict(await _body(request))
        return await _answered(self._admission.introduce(hello, _peer(request)))

    async def join(self, request: web.Request) -> web.Response:
        """Let a machine in."""
        asked = Request.from_dict(await _body(request))
        return await _answered(self._admission.admit(asked, _peer(request)))

    async def certificates(self, request: web.Request) -> web.Response:
        """Sign anew for a node whose agent shows its certificate."""
        name = _node_name(request)
        renewal = Renewal.from_dict(await _body(request))
        return await _answered(self._admission.renew(name, renewal))

    async def fence(self, request: web.Request) -> web.Response:
        """Tell another control plane whether the cluster goes on without it."""
        _require_control_plane(request)
        standing = Standing.from_dict(await _body(request))
        return await _answered(self._admission.judge(standing, _peer(request)))

    async def ca_key(self, request: web.Request) -> web.Response:
        """Give another control plane the key of an authority that all of them are to have."""
        _require_control_plane(request)
        wanted = Wanted.from_dict(await _body(request))
        return await _answered(self._admission.hand_over(wanted, _peer(request)))

    async def partner(self, request: web.Request) -> web.Response:
        """Tell another control plane whether it is told who carries the API's virtual address."""
        _require_control_plane(request)
        return await _answered(self._admission.hear(Partner.from_dict(await _body(request))))


def add_moves(app: web.Application, mover: Mover, partaker: Partaker) -> None:
    """Add what control planes say to each other while one of them moves the datastore."""

    async def rest(request: web.Request) -> web.Response:
        _require_control_plane(request)
        return await _answered(partaker.rest(Rest.from_dict(await _body(request))))

    async def outcome(request: web.Request) -> web.Response:
        _require_control_plane(request)
        return await _answered(mover.outcome(Question.from_dict(await _body(request))))

    app.router.add_post(REST, rest)
    app.router.add_post(MOVE, outcome)


async def _body(request: web.Request) -> Any:
    try:
        return json.loads(await request.read())
    except ValueError:
        raise ApiError(ApiCode.BAD_REQUEST, "the body is no JSON", "Send a JSON object.") from None


async def _answered(work: Awaitable[Message]) -> web.Response:
    """Return the answer; that the API server is not up yet is nothing that anybody has to do something about."""
    try:
        message = await work
    except KubeError as error:
        if error.status:
            raise
        found, remedy = (
            f"the control plane is not up yet: {error}",
            "Nothing: it goes on by itself in some seconds.",
        )
        raise DocumentError([Failure(Code.JOIN_WAITS, "basalt.cluster", found, remedy)]) from None
    return as_json(message.to_dict())


def _peer(request: web.Request) -> str:
    address = info(request, "peername")
    return str(address[0]) if address else "somebody"


def _subject(request: web.Request) -> dict[str, str]:
    """Return whom the certificate is for; it was judged in the handshake, by the cluster's CA alone."""
    tls = info(request, "ssl_object")
    return dict(part for each in (tls.getpeercert() or {}).get("subject", ()) for part in each) if tls else {}


def _require_control_plane(request: web.Request) -> None:
    if _subject(request) != {"commonName": CONTROL_PLANE_AGENT, "organizationName": ADMINISTRATORS}:
        remedy = "Show the certificate of a control plane's agent."
        raise ApiError(ApiCode.FORBIDDEN, "only a control plane may ask this", remedy)


def _node_name(request: web.Request) -> str:
    """Return whose agent asks."""
    subject = _subject(request)
    match = AGENT_NAME.fullmatch(subject.get("commonName", ""))
    if match is None or subject.get("organizationName") != NODES:
        remedy = "Show the certificate of a node's agent."
        raise ApiError(ApiCode.FORBIDDEN, "only a node of the cluster may ask for certificates", remedy)
    return match[1]
