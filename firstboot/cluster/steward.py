# SPDX-License-Identifier: Apache-2.0
"""What administrators ask about the settings of their cluster: what they are, what they were, and that they change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from firstboot.cluster import versions
from firstboot.cluster.settings import Values
from firstboot.cluster.versions import Outcome, Versions
from firstboot.kube import Client

ANNOTATION = "basalt.io/settings-version"
"""On a Node object: which version its machine follows."""


@dataclass(frozen=True)
class NodeVersion:
    """Which version a node has said that it follows; None before it has said anything."""

    name: str
    version: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        return asdict(self)


@dataclass(frozen=True)
class Steward:
    """One node's.

    may:     raises BasaltError on a node that changes no settings
    changed: called when there may be a new version
    """

    client: Client
    may: Callable[[], None]
    changed: Callable[[], None]

    async def versions(self) -> Versions | None:
        """Return all versions that are kept, None before there is one. Raises BasaltError."""
        return await versions.read(self.client)

    async def nodes(self) -> list[NodeVersion]:
        """Return which version each node follows. Raises KubeError."""
        found = (await self.client.get("/api/v1/nodes"))["items"]
        return [NodeVersion(each["metadata"]["name"], _told(each)) for each in found]

    async def change(self, wanted: Values, author: str, expected: int | None = None) -> Outcome:
        """Make a version with other values; see versions.change."""
        self.may()
        outcome = await versions.change(self.client, wanted, author, expected)
        self.changed()
        return outcome

    async def revert(self, number: int, author: str, expected: int | None = None) -> Outcome:
        """Make a version with the values of an older one; see versions.revert."""
        self.may()
        outcome = await versions.revert(self.client, number, author, expected)
        self.changed()
        return outcome


def _told(node: Any) -> int | None:
    text = node["metadata"].get("annotations", {}).get(ANNOTATION, "")
    return int(text) if text.isascii() and text.isdigit() else None
