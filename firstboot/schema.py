# SPDX-License-Identifier: Apache-2.0
"""Finds Basalt's JSON Schemas, wherever this package runs from."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

PLACES = (
    Path(__file__).parent / "schemas",
    Path("/usr/share/basalt/schemas"),
    Path(__file__).parent.parent / "schemas",
)
"""Looked at in this order: an installed wheel, the image, a checkout."""


def path(name: str) -> Path:
    """Return the file of the schema ``name``, e.g. ``user-data``; FileNotFoundError when no place has it."""
    for place in PLACES:
        candidate = place / f"{name}.schema.json"
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"{name}.schema.json is in none of {', '.join(map(str, PLACES))}")


@cache
def load(name: str) -> dict[str, Any]:
    """Return the schema ``name``, read once per process: callers must not change it."""
    loaded: dict[str, Any] = json.loads(path(name).read_text(encoding="utf-8"))
    return loaded
