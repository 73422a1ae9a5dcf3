# SPDX-License-Identifier: Apache-2.0
"""What administrators ask about the settings of their cluster: what they are, what they were, and that they change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from firstboot.cluster import versions
from firstboot.cluster.changes import effective, put
from firstboot.cluster.orphans import CIDRS, orphans, unnamed
from firstboot.cluster.records import internal_address
from firstboot.cluster.settings import Values, paths
from firstboot.cluster.versions import Outcome, Versions
from firstboot.codes import Code
from firstboot.failure import DocumentError, Failure, Refused
from firstboot.kube import Client
from firstboot.loadbalancer.addresses import BadSpan, parse, spans

ANNOTATION = "basalt.io/settings-version"
"""On a Node object: which version its machine follows."""
VIRTUAL_ADDRESS = "cluster.virtual-address"


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
    may: Callable[[], object]
    changed: Callable[[], None]

    async def versions(self) -> Versions | None:
        """Return all versions that are kept, None before there is one. Raises BasaltError."""
        return await versions.read(self.client)

    async def nodes(self) -> list[NodeVersion]:
        """Return which version each node follows. Raises KubeError."""
        found = (await self.client.get("/api/v1/nodes"))["items"]
        return [NodeVersion(each["metadata"]["name"], _told(each)) for each in found]

    async def change(
        self, wanted: Values, author: str, expected: int | None = None, *, force: bool = False
    ) -> Outcome:
        """Make a version with other values; see versions.change.

        force: also where that leaves objects of users without a feature that they need, or names one that is missing
        """
        self.may()
        if not force and (known := await versions.read(self.client)) is not None:
            await self._refuse_orphans(known, wanted)
            if failures := await unnamed(self.client, wanted):
                raise Refused(failures)
        if address := wanted.get(VIRTUAL_ADDRESS):
            await self._refuse_taken(address)
        if cidrs := wanted.get(CIDRS):
            await self._refuse_inside(cidrs)
        outcome = await versions.change(self.client, wanted, author, expected)
        self.changed()
        return outcome

    async def revert(
        self, number: int, author: str, expected: int | None = None, *, force: bool = False
    ) -> Outcome:
        """Make a version with the values of an older one; see versions.revert, and change."""
        self.may()
        if not force and (known := await versions.read(self.client)) is not None:
            for old in known.kept:
                if old.number == number:
                    await self._refuse_orphans(known, effective(old.settings))
        outcome = await versions.revert(self.client, number, author, expected)
        self.changed()
        return outcome

    async def _refuse_orphans(self, known: Versions, wanted: Values) -> None:
        """Raise Refused for features that would go while objects need them."""
        newest = known.newest.settings
        after = put(newest, {path: value for path, value in wanted.items() if path in paths()})
        if failures := await orphans(self.client, effective(newest), effective(after)):
            raise Refused(failures)

    async def _refuse_taken(self, address: Any) -> None:
        """Raise DocumentError for a virtual address that a node has: two machines would answer to it."""
        for node in (await self.client.get("/api/v1/nodes"))["items"]:
            if internal_address(node) == address:
                found = f"{address} is the address of {node['metadata']['name']}"
                remedy = "Choose an address of the same network that no machine has."
                raise DocumentError([Failure(Code.ADDRESS_TAKEN, VIRTUAL_ADDRESS, found, remedy)])

    async def _refuse_inside(self, cidrs: Any) -> None:
        """Raise DocumentError for addresses to give away that a node has."""
        try:
            known = spans(map(str, cidrs if isinstance(cidrs, list) else ()))
        except BadSpan:
            # The rules say better what is wrong.
            return
        for node in (await self.client.get("/api/v1/nodes"))["items"]:
            address = parse(internal_address(node) or "")
            for span in known:
                if address is not None and address in span:
                    found = f"{span} contains {address}, the address of {node['metadata']['name']}"
                    remedy = "Choose addresses that no machine has."
                    raise DocumentError([Failure(Code.ADDRESS_TAKEN, CIDRS, found, remedy)])


def _told(node: Any) -> int | None:
    text = node["metadata"].get("annotations", {}).get(ANNOTATION, "")
    return int(text) if text.isascii() and text.isdigit() else None
