# SPDX-License-Identifier: Apache-2.0
"""The node follows the settings of its cluster, and says in the cluster which version it follows."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from firstboot.cluster import changes, settings, versions
from firstboot.cluster.followed import Followed
from firstboot.cluster.steward import ANNOTATION
from firstboot.cluster.versions import Version
from firstboot.config import Config, DatastoreType
from firstboot.failure import BasaltError
from firstboot.identity import Identity
from firstboot.kube import Object
from firstboot.report.status import now
from firstboot.services.model import Node
from firstboot.steps.model import Finding, Machine
from firstboot.steps.objects import Applied
from firstboot.steps.telling import tell

MANAGER = "basalt-settings"
"""Whose field the annotation is."""


@dataclass(frozen=True)
class FollowSettings:
    """The node's record is of the newest version; where the node's document decides, that is what the document says."""

    node: Node
    record: Path = field(compare=False)
    name: str = "settings"
    needs: tuple[str, ...] = ("apiserver",)
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Compare the cluster with the record, and the document with what it said when that was written."""
        found = await versions.read(machine.client)
        if found is None:
            # Only control planes may write it; that there is none is the case before the first of them has.
            creates = self.node.config.role.has_control_plane
            return Finding(versions.NAME, "create", "the cluster has no settings yet") if creates else None
        if self._misplaced(found.newest):
            return Finding(versions.NAME, "change", f"the datastore that it is in is {self._datastore}")
        known = Followed.load(self.record)
        if news := self._news(found.newest, known):
            return Finding(versions.NAME, "change", f"the document changes {', '.join(news)}")
        if self._followed(found.newest) == known:
            return None
        return Finding(
            str(self.record), "write", f"the cluster's settings are of version {found.newest.number}"
        )

    async def apply(self, machine: Machine) -> None:
        """Make a version if it is for this node to make, and write the record, which the next round follows."""
        found, known = await versions.read(machine.client), Followed.load(self.record)
        if found is None:
            # Where somebody else was quicker, his is followed; the next pass sees which it is.
            await versions.create(machine.client, self._first(known))
            return
        newest = found.newest
        if self._misplaced(newest):
            newest = (await versions.put_right(machine.client, self._datastore, self.node.name)).version
        if news := self._news(newest, known):
            newest = (await versions.change(machine.client, news, f"document of {self.node.name}")).version
        await asyncio.to_thread(self._follow, newest)

    @property
    def _datastore(self) -> DatastoreType:
        return self.node.config.datastore.type

    def _misplaced(self, newest: Version) -> bool:
        """Whether the version names another datastore than the one it was read from, which a control plane knows.

        So it is after a move, and in a backup that was taken just then.
        """
        named = newest.settings["datastore"].get("type")
        return self.node.config.role.has_control_plane and named != self._datastore

    def _news(self, newest: Version, known: Followed | None) -> dict[str, Any]:
        """Return what this node's document has the cluster change; None for a default."""
        node = self.node
        if known is None or not settings.decides(node.config, node.ip, node.control_planes):
            return {}
        news = settings.news(node.stated, known.document)
        return changes.differing(newest.settings, news) if news else {}

    def _first(self, known: Followed | None) -> Version:
        """Return what this node follows, as a version: also of a cluster whose object somebody has removed."""
        number, author = (
            (known.version + 1, self.node.name) if known else (1, f"document of {self.node.name}")
        )
        return Version(number, now(), author, settings.of(self.node.config))

    def _follow(self, version: Version) -> None:
        _require_usable(version, self.node)
        self._followed(version).save(self.record)

    def _followed(self, version: Version) -> Followed:
        return Followed(version.number, version.time, dict(version.settings), dict(self.node.stated))


@dataclass(frozen=True)
class TellVersion:
    """The Node object says which version its machine follows."""

    node: str
    version: int
    applied: Applied = field(compare=False)
    name: str = "settings-version"
    needs: tuple[str, ...] = ("node",)
    lasts: ClassVar[bool] = False

    async def check(self, machine: Machine) -> Finding | None:
        """Look whether it was told lately."""
        if self.applied.fresh(self._object()):
            return None
        return Finding(f"node/{self.node}", "annotate", f"follows version {self.version}")

    async def apply(self, machine: Machine) -> None:
        """Tell it."""
        if await tell(machine.client, self._object(), MANAGER):
            self.applied.note(self._object())

    def _object(self) -> Object:
        annotations = {ANNOTATION: str(self.version)}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.node, "annotations": annotations},
        }


def _require_usable(version: Version, node: Node) -> None:
    """Raise BasaltError for settings that a node cannot follow; nobody makes such by `basalt set`."""
    failures = changes.problems(version.settings)
    if not failures:
        config = Config.from_dict(settings.merged(_plain(node), version.settings))
        failures = Identity.of(node.config, node.name).refuses(Identity.of(config, node.name))
    if failures:
        first = failures[0]
        raise BasaltError(
            f"version {version.number} cannot be followed: {first.path}: {first.found}",
            "Go back to an older one: `basalt get --history`, `basalt set --revert VERSION`.",
        )


def _plain(node: Node) -> dict[str, Any]:
    return {"role": node.config.role.value}
