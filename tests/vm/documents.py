# SPDX-License-Identifier: Apache-2.0
"""The documents that several tests use."""

from __future__ import annotations

from typing import Any

CONTROL_PLANE: dict[str, Any] = {"version": 1, "role": "control-plane"}


def control_plane(datastore: str = "dqlite", **more: Any) -> dict[str, Any]:
    """Return the document of a control plane with this datastore and further top-level keys."""
    return {**CONTROL_PLANE, "datastore": {"type": datastore}, **more}
