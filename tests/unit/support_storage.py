# SPDX-License-Identifier: Apache-2.0
"""A node's disk and a cluster's API in memory, either of which can be the last that a node did before a power cut.

The host's kernel need not know quotas, so these are counted here; tests/vm/guest/quotas.py has those of a kernel.
"""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from firstboot.kube import Client, KubeError
from firstboot.storage import PROVISIONER
from firstboot.storage.quota import Quota

CLAIMS = "/api/v1/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
SELECTED = "volume.kubernetes.io/selected-node"
MIB = 1024**2


def nothing(_what: str) -> None:
    """Spend no power."""


@dataclass
class CountedQuotas:
    """Quotas of a file system that counts files only when it is asked; by the inode of a volume's folder."""

    spend: Callable[[str], None] = nothing
    enforced: tuple[str, str] | None = None
    projects: dict[int, int] = field(default_factory=dict)
    limits: dict[int, Quota] = field(default_factory=dict)
    places: dict[int, Path] = field(default_factory=dict)
    held: set[int] = field(default_factory=set)
    opened: list[int] = field(default_factory=list)

    def __del__(self) -> None:
        for each in self.opened:
            os.close(each)

    def problem(self) -> tuple[str, str] | None:
        return self.enforced

    def project(self, folder: Path) -> int:
        return self.projects.get(folder.stat().st_ino, 0)

    def assign(self, folder: Path, project: int, *, inherited: bool = True) -> None:
        self.spend("assign")
        # As long as it is open its number is no other folder's.
        self.opened.append(os.open(folder, os.O_PATH))
        self.projects[folder.stat().st_ino] = project

    def get(self, project: int) -> Quota:
        quota = self.limits.get(project, Quota())
        return replace(quota, used_files=self._files(project) + (project in self.held))

    def set(self, project: int, limit: int, files: int) -> None:
        assert project, "that is all that is in no project"
        self.spend("set")
        self.limits[project] = Quota(limit, files)

    def _files(self, project: int) -> int:
        found = [path for path in self.places.values() if path.exists()]
        inside = [each for path in found for each in path.iterdir() if self._is(each, project)]
        return sum(1 + sum(len(dirs) + len(names) for _, dirs, names in os.walk(each)) for each in inside)

    def _is(self, path: Path, project: int) -> bool:
        return self.projects.get(path.stat().st_ino) == project


class Cluster(Client):
    """Objects by path, with the answers that local storage relies on; bound and released as a cluster does it."""

    def __init__(self, spend: Callable[[str], None] = nothing) -> None:
        super().__init__()
        self.spend = spend
        self.objects: dict[str, dict[str, Any]] = {}
        self.version = 0
        self.watchers: list[tuple[str, asyncio.Queue[tuple[str, Any]]]] = []
        self.refusing: int | None = None

    async def get(self, path: str) -> Any:
        collection = path.partition("?")[0]
        if collection in (CLAIMS, VOLUMES, CLASSES):
            return {"metadata": {"resourceVersion": str(self.version)}, "items": self.items(collection)}
        return copy.deepcopy(self.objects.get(path))

    def items(self, collection: str) -> list[Any]:
        return [copy.deepcopy(each) for path, each in self.objects.items() if _collection(path) == collection]

    async def watch(self, path: str, version: str) -> AsyncIterator[tuple[str, Any]]:
        queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.watchers.append((path, queue))
        while True:
            yield await queue.get()

    async def send(self, method: str, path: str, obj: Any = None) -> Any:
        self.spend(f"{method} {path}")
        if self.refusing:
            raise KubeError(method, path, self.refusing, "refused")
        at = f"{path}/{obj['metadata']['name']}" if method == "POST" else path.removesuffix("/status")
        found = self.objects.get(at)
        if method == "POST" and found is not None:
            raise KubeError(method, path, 409, "exists")
        if method != "POST" and found is None:
            raise KubeError(method, path, 404, "not found")
        if (
            method == "PUT"
            and found
            and obj["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]
        ):
            raise KubeError(method, path, 409, "has changed")
        if method == "DELETE":
            assert found is not None
            found["metadata"]["deletionTimestamp"] = "2026-11-26T22:00:00Z"
            self._put(at, found)
        else:
            self._put(at, copy.deepcopy(obj))
        return self.objects.get(at)

    def _put(self, path: str, obj: dict[str, Any]) -> None:
        kind = "MODIFIED" if path in self.objects else "ADDED"
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        obj["metadata"].setdefault("uid", f"uid-{self.version}")
        self.objects[path] = obj
        if "deletionTimestamp" in obj["metadata"] and not obj["metadata"].get("finalizers"):
            del self.objects[path]
            kind = "DELETED"
        for collection, queue in self.watchers:
            if collection == _collection(path):
                queue.put_nowait((kind, copy.deepcopy(obj)))

    # What users, the scheduler and the controller manager do.

    def add_class(
        self, name: str = "local-storage", policy: str = "Delete", provisioner: str = PROVISIONER
    ) -> None:
        self._put(
            f"{CLASSES}/{name}",
            {"metadata": {"name": name}, "provisioner": provisioner, "reclaimPolicy": policy},
        )

    def add_claim(self, name: str, size: str, node: str | None = "node-1", **spec: Any) -> str:
        """Make a claim whose pod the scheduler has sent to a node; return its path."""
        path = f"/api/v1/namespaces/shop/persistentvolumeclaims/{name}"
        metadata = {"name": name, "namespace": "shop", "uid": f"uid-of-{name}"}
        common = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size}},
            "storageClassName": "local-storage",
            "volumeMode": "Filesystem",
        }
        claim = {
            "kind": "PersistentVolumeClaim",
            "metadata": metadata,
            "spec": common | spec,
            "status": {"phase": "Pending"},
        }
        self._put(path, claim)
        if node:
            self.select(path, node)
        return path

    def select(self, claim: str, node: str) -> None:
        """Have the scheduler choose a node for a claim."""
        self.objects[claim]["metadata"].setdefault("annotations", {})[SELECTED] = node
        self._put(claim, self.objects[claim])

    def resize(self, claim: str, size: str) -> None:
        self.objects[claim]["spec"]["resources"]["requests"]["storage"] = size
        self._put(claim, self.objects[claim])

    def remove(self, path: str) -> None:
        """Delete an object as a user does."""
        obj = self.objects[path]
        obj["metadata"]["deletionTimestamp"] = "2026-11-26T22:00:00Z"
        self._put(path, obj)

    def settle(self) -> bool:
        """Bind and release volumes as the controller manager does; whether there was anything to do."""
        busy = False
        claims = {each["metadata"]["uid"]: each for each in self.items(CLAIMS)}
        for volume in self.items(VOLUMES):
            path, phase = f"{VOLUMES}/{volume['metadata']['name']}", volume.get("status", {}).get("phase")
            claim = claims.get(volume["spec"]["claimRef"]["uid"])
            wanted = "Bound" if claim else "Released"
            if phase != wanted:
                self._put(path, volume | {"status": {"phase": wanted}})
                busy = True
            if claim and not claim["spec"].get("volumeName"):
                claim["spec"]["volumeName"] = volume["metadata"]["name"]
                claim["status"] = {"phase": "Bound", "capacity": dict(volume["spec"]["capacity"])}
                name = claim["metadata"]["name"]
                self._put(f"/api/v1/namespaces/shop/persistentvolumeclaims/{name}", claim)
                busy = True
        return busy

    @property
    def events(self) -> list[tuple[str, str, int]]:
        """Reason, message and count of each Event."""
        found = [each for path, each in self.objects.items() if "/events/" in path]
        return [(each["reason"], each["message"], each["count"]) for each in found]


def _collection(path: str) -> str:
    head = path.rpartition("/")[0]
    return CLAIMS if head.endswith("/persistentvolumeclaims") else head
