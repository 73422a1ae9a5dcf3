# SPDX-License-Identifier: Apache-2.0
"""The node's status document, read over plain HTTP as anybody would."""

from __future__ import annotations

import http.client
import json
from typing import Any

from firstboot.failure import BasaltError
from firstboot.report.status import Status


def fetch(port: int, host: str = "127.0.0.1", timeout: float = 15) -> Status | None:
    """Return the status document, or None while nobody answers; BasaltError for one not understood."""
    answer = get(port, "/v1/status", host, timeout)
    if answer is None:
        return None
    code, body = answer
    try:
        data: Any = json.loads(body)
    except ValueError:
        raise BasaltError(f"/v1/status answered {code} and no JSON: {body[:200]!r}") from None
    return Status.from_dict(data)


def get(port: int, path: str, host: str = "127.0.0.1", timeout: float = 15) -> tuple[int, bytes] | None:
    """Return code and body of a GET, or None where there is no answer yet."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
