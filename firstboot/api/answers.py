# SPDX-License-Identifier: Apache-2.0
"""How every answer in JSON looks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web


def as_json(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return data as an answer; the line break at its end is for those who read it in a terminal."""
    return web.Response(
        status=status, text=json.dumps(data) + "\n", content_type="application/json", headers=headers
    )
