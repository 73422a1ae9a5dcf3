# SPDX-License-Identifier: Apache-2.0
"""Kubernetes objects that the image's services need, kept by server-side apply."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar

from firstboot import files
from firstboot.kube import FIELD_MANAGER, KubeError, Object, object_path
from firstboot.steps.model import Finding, Machine

AGAIN = 300.0
"""Seconds after which an object is applied again, in case somebody changed or removed it."""


REPLACED = ("StorageClass",)
"""Kinds with fields that the API server lets nobody change, and that nothing goes with which depends on them."""


@dataclass
class Applied:
    """What this process has applied, or seen gone (None): path -> when. Lost with it, which costs one more look."""

    when: dict[str, tuple[float, Object | None]] = field(default_factory=dict)

    def fresh(self, obj: Object) -> bool:
        """Whether this very object was applied lately."""
        return self._is(obj, obj)

    def gone(self, obj: Object) -> bool:
        """Whether this object was seen gone lately."""
        return self._is(obj, None)

    def forget(self) -> None:
        """Count nothing as applied: the objects are in another datastore now."""
        self.when.clear()

    def note(self, obj: Object) -> None:
        """Remember that it was applied now."""
        self.when[object_path(obj)] = (time.monotonic(), obj)

    def note_gone(self, obj: Object) -> None:
        """Remember that it is gone now."""
        self.when[object_path(obj)] = (time.monotonic(), None)

    def _is(self, obj: Object, known: Object | None) -> bool:
        when, last = self.when.get(object_path(obj), (float("-inf"), known))
        return last == known and time.monotonic() - when < AGAIN


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
            await _apply(machine, obj)
            self.applied.note(obj)

    def _due(self) -> list[Object]:
        return [obj for obj in self.objects if not self.applied.fresh(obj)]


@dataclass(frozen=True)
class AggregatedApi:
    """The API server passes requests on to another one, which it believes by the cluster's CA of now.

    build: makes the object, from the certificates that are believed (PEM)
    """

    name: str
    build: Callable[[bytes], Object]
    authorities: Path
    applied: Applied = field(compare=False, hash=False)
    needs: tuple[str, ...] = ("apiserver",)
    lasts: ClassVar[bool] = False

    async def check(self, machine: Machine) -> Finding | None:
        """Look whether it was applied lately with these certificates."""
        return await self._objects().check(machine)

    async def apply(self, machine: Machine) -> None:
        """Apply it."""
        await self._objects().apply(machine)

    def _objects(self) -> Objects:
        return Objects(self.name, (self.build(files.read_or_none(self.authorities) or b""),), self.applied)


@dataclass(frozen=True)
class Removed:
    """Objects of one purpose that nobody needs any more; the first was made first, and goes last.

    One that somebody else has made, who has the same purpose, is his, and so are the others then.
    """

    name: str
    objects: tuple[Object, ...]
    applied: Applied = field(compare=False, hash=False)
    needs: tuple[str, ...] = ("apiserver",)
    lasts: ClassVar[bool] = False

    async def check(self, machine: Machine) -> Finding | None:
        """Look for the first, every few minutes."""
        first = self.objects[0]
        if self.applied.gone(first):
            return None
        if _is_ours(await machine.client.get(object_path(first))):
            return Finding(object_path(first), "remove", "nothing asks for it")
        self.applied.note_gone(first)
        return None

    async def apply(self, machine: Machine) -> None:
        """Remove those that are there."""
        for obj in reversed(self.objects):
            path = object_path(obj)
            if obj["kind"] == "Service":
                await self._remove_endpoints(machine, obj)
            if _is_ours(await machine.client.get(path)):
                await self._remove(machine, path)

    async def _remove_endpoints(self, machine: Machine, service: Object) -> None:
        """Remove those of a Service that nobody but the agents has made, and nobody else will remove."""
        place = f"/apis/discovery.k8s.io/v1/namespaces/{service['metadata']['namespace']}/endpointslices"
        wanted = f"kubernetes.io/service-name={service['metadata']['name']}"
        for each in (await machine.client.get(f"{place}?labelSelector={wanted}"))["items"]:
            if _is_ours(each):
                await self._remove(machine, f"{place}/{each['metadata']['name']}")

    async def _remove(self, machine: Machine, path: str) -> None:
        try:
            await machine.client.send("DELETE", path)
        except KubeError as error:
            # Another control plane was quicker.
            if error.status != HTTPStatus.NOT_FOUND:
                raise


async def _apply(machine: Machine, obj: Object) -> None:
    """Apply an object, by making it anew where it cannot become what it should be."""
    try:
        await machine.client.apply(obj)
    except KubeError as error:
        path = object_path(obj)
        unchangeable = error.status == HTTPStatus.UNPROCESSABLE_ENTITY and obj["kind"] in REPLACED
        if not unchangeable or not _is_ours(await machine.client.get(path)):
            raise
        await machine.client.send("DELETE", path)
        await machine.client.apply(obj)


def _is_ours(found: Any) -> bool:
    """Whether an object is there, and agents have applied it."""
    managers = found["metadata"].get("managedFields", ()) if found else ()
    return any(each.get("manager") == FIELD_MANAGER for each in managers)


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
