# SPDX-License-Identifier: Apache-2.0
"""Every error of the API has one form, {"failures": [{code, path, found, remedy}]}, and a fitting status."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import StrEnum

from aiohttp import web

from firstboot.api.answers import as_json
from firstboot.api.node import NotYet
from firstboot.failure import BasaltError, DocumentError, Failure, Refused

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiCode(StrEnum):
    """Failures of the API itself; those of documents are in firstboot.codes."""

    BAD_REQUEST = "bad-request"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    TOO_LARGE = "request-too-large"
    TOO_MANY = "too-many-requests"
    NOT_YET = "not-yet"
    FAILED = "request-failed"
    INTERNAL = "internal-error"

    @property
    def http_status(self) -> int:
        """The HTTP status that goes with the code."""
        return HTTP_STATUS[self]


HTTP_STATUS: Mapping[ApiCode, int] = {
    ApiCode.BAD_REQUEST: 400,
    ApiCode.FORBIDDEN: 403,
    ApiCode.NOT_FOUND: 404,
    ApiCode.METHOD_NOT_ALLOWED: 405,
    ApiCode.TOO_LARGE: 413,
    ApiCode.TOO_MANY: 429,
    ApiCode.NOT_YET: 503,
    ApiCode.FAILED: 500,
    ApiCode.INTERNAL: 500,
}


class ApiError(BasaltError):
    """A request that cannot be answered; path names the parameter it is about."""

    def __init__(self, code: ApiCode, found: str, remedy: str, path: str = "") -> None:
        super().__init__(found, remedy)
        self.code = code
        self.path = path

    @property
    def failure(self) -> Failure:
        """The error as the API shows it."""
        return Failure(self.code.value, self.path, str(self), self.hint)


BUG = Failure(
    ApiCode.INTERNAL.value,
    "",
    "the agent met an error of its own",
    "Look at `basalt logs basalt` and report it.",
)


def respond(
    failures: Iterable[Failure], http_status: int, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return an answer that holds failures."""
    body = {"failures": [failure.to_dict() for failure in failures]}
    return as_json(body, http_status, headers)


def flag(request: web.Request, name: str) -> bool:
    """Return a parameter that is true or false, and false when it is not given. Raises ApiError."""
    text = request.query.get(name, "false")
    if text not in ("true", "false"):
        raise ApiError(ApiCode.BAD_REQUEST, f"{text!r} is neither true nor false", "Use true or false.", name)
    return text == "true"


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into an answer; only a bug leaves a traceback, and that in the log."""
    try:
        return await handler(request)
    except ApiError as error:
        return respond([error.failure], error.code.http_status)
    except Refused as error:
        return respond(error.failures, 409)
    except DocumentError as error:
        return respond(error.failures, 422)
    except NotYet as error:
        return _one(ApiCode.NOT_YET, str(error), error.hint, headers={"Retry-After": "5"})
    except BasaltError as error:
        return _one(ApiCode.FAILED, str(error), error.hint)
    except web.HTTPException as error:
        return _of_http(request, error)
    except Exception:
        log.exception("%s %s: unexpected error", request.method, request.path)
        return respond([BUG], ApiCode.INTERNAL.http_status)


def _one(code: ApiCode, found: str, remedy: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return respond([Failure(code.value, "", found, remedy)], code.http_status, headers)


def _of_http(request: web.Request, error: web.HTTPException) -> web.Response:
    match error:
        case web.HTTPNotFound():
            return _one(
                ApiCode.NOT_FOUND, f"there is no {request.path}", "GET /openapi.json lists what there is."
            )
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            found = f"{request.path} does not take {request.method}"
            return _one(ApiCode.METHOD_NOT_ALLOWED, found, f"Use {allowed}.", headers={"Allow": allowed})
        case web.HTTPRequestEntityTooLarge():
            return _one(ApiCode.TOO_LARGE, "the request's body is too large", "A document has at most 1 MiB.")
    return respond(
        [Failure(ApiCode.BAD_REQUEST.value, "", error.reason, "See GET /openapi.json.")], error.status
    )
