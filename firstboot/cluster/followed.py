# SPDX-License-Identifier: Apache-2.0
"""A node's own record of the cluster's settings: it boots by this without asking anybody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from firstboot.cluster.settings import SECTIONS
from firstboot.record import Record

FILE = "settings.json"
"""Its name, beside the record of membership."""


@dataclass(frozen=True)
class Followed(Record):
    """The version that the node has followed last.

    made:     when it was made (RFC 3339, UTC)
    settings: as in firstboot.cluster.settings
    document: what the node's document said about them then, by path: only what it says otherwise since is news
    """

    version: int
    made: str
    settings: dict[str, Any]
    document: dict[str, Any]

    REMEDY = "Remove the file: the node takes the settings from its cluster again."

    @classmethod
    def read(cls, data: Any) -> Self:
        """Return the record of JSON data."""
        settings = {**data["settings"], **{each: dict(data["settings"][each]) for each in SECTIONS}}
        return cls(int(data["version"]), str(data["made"]), settings, dict(data["document"]))
