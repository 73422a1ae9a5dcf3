# SPDX-License-Identifier: Apache-2.0
"""Kubernetes objects that the image's services need, kept by server-side apply."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from firstboot.kube import Object, object_path
from firstboot.steps.model import Finding, Machine

AGAIN = 300.0
"""Seconds after which an object is applied again, in case somebody changed or removed it."""


@dataclass
class Applied:
    """What this process has applied: path -> when. Lost with the process, which costs one more apply."""

    when: dict[str, tuple[float, Object]] = field(default_factory=dict)

    def fresh(self, obj: Object) -> bool:
        """Whether this very object was applied lately."""
        known = self.when.get(object_path(obj))
        return known is not None and known[1] == obj and time.monotonic() - known[0] < AGAIN

    def forget(self) -> None:
        """Count nothing as applied: the objects are in another datastore now."""
        self.when.clear()

    def note(self, obj: Object) -> None:
        """Remember that it was applied now."""
        self.when[object_path(obj)] = (time.monotonic(), obj)


@dataclass(frozen=True)
class Objects:
    """All objects of one purpose."""

    name: str
    objects: tuple[Object, ...]
    applied: Applied = field(compare=False, hash=False)
    needs: tuple[str, ...] = ("apiserver",)
    lasts: ClassVar[bool] = False

    async def check(self, machine: Machine) -> Finding | None:
        """Look which were not applied lately."""
        due = self._due()
        return Finding(object_path(due[0]), "apply", f"{len(due)} not applied lately") if due else None

    async def apply(self, machine: Machine) -> None:
        """Apply them."""
        for obj in self._due():
            await machine.client.apply(obj)
            self.applied.note(obj)

    def _due(self) -> list[Object]:
        return [obj for obj in self.objects if not self.applied.fresh(obj)]


@dataclass(frozen=True)
class NodeLabels:
    """Labels that a kubelet may not give itself, such as its role."""

    node: str
    labels: Mapping[str, str] = field(hash=False)
    name: str = "node-labels"
    needs: tuple[str, ...] = ("node",)
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Compare with the Node object."""
        found: Any = await machine.client.get(f"/api/v1/nodes/{self.node}")
        if found is None:
            return Finding(f"node/{self.node}", "wait", "not registered yet")
        labels = found["metadata"].get("labels", {})
        missing = [key for key, value in self.labels.items() if labels.get(key) != value]
        return Finding(f"node/{self.node}", "label", f"lacks {missing[0]}") if missing else None

    async def apply(self, machine: Machine) -> None:
        """Set them; other labels stay."""
        await machine.client.apply(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": self.node, "labels": dict(self.labels)},
            }
        )
