# SPDX-License-Identifier: Apache-2.0
"""What local storage reads of claims, volumes and classes, and the PersistentVolumes and Events that it writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstboot.kube import Object
from firstboot.storage import FINALIZER, HOSTNAME, PROVISIONED_BY, PROVISIONER
from firstboot.storage.quantity import parse, write

SELECTED_NODE = "volume.kubernetes.io/selected-node"


@dataclass(frozen=True)
class Class:
    """A StorageClass that is ours; policy: what becomes of data nobody claims any more."""

    name: str
    policy: str

    @classmethod
    def read(cls, obj: Any) -> Class | None:
        """Read one, None for that of another provisioner."""
        if obj["provisioner"] != PROVISIONER:
            return None
        return cls(obj["metadata"]["name"], obj.get("reclaimPolicy", "Delete"))


@dataclass(frozen=True)
class Claim:
    """A PersistentVolumeClaim with a class.

    node:     that the scheduler has chosen for its pod
    volume:   that it is bound to
    asked:    bytes
    capacity: bytes that it says it has
    wish:     what no volume of ours can be, None when there is nothing of the kind
    """

    namespace: str
    name: str
    uid: str
    version: str
    class_name: str
    node: str | None
    volume: str | None
    asked: int
    capacity: int = 0
    leaving: bool = False
    wish: str | None = None

    @classmethod
    def read(cls, obj: Any) -> Claim | None:
        """Read one, None for one without a class or of no size."""
        metadata, spec = obj["metadata"], obj["spec"]
        try:
            asked = parse(spec["resources"]["requests"]["storage"])
            capacity = parse(obj.get("status", {}).get("capacity", {}).get("storage", "0"))
        except (KeyError, ValueError):
            return None
        if not spec.get("storageClassName"):
            return None
        return cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            version=metadata["resourceVersion"],
            class_name=spec["storageClassName"],
            node=metadata.get("annotations", {}).get(SELECTED_NODE),
            volume=spec.get("volumeName") or None,
            asked=asked,
            capacity=capacity,
            leaving="deletionTimestamp" in metadata,
            wish=_wish(spec),
        )

    @property
    def path(self) -> str:
        """Where it is in the API."""
        return f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims/{self.name}"

    @property
    def reference(self) -> dict[str, str]:
        """How other objects name it."""
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": self.namespace,
            "name": self.name,
            "uid": self.uid,
        }

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def _wish(spec: Mapping[str, Any]) -> str | None:
    """Return the first thing that a claim wants and cannot have."""
    if spec.get("volumeMode", "Filesystem") != "Filesystem":
        return "a volume is a folder, not a block device: set `volumeMode: Filesystem`"
    if several := sorted({"ReadWriteMany", "ReadOnlyMany"}.intersection(spec.get("accessModes", ()))):
        return f"a volume is on one node only: set `ReadWriteOnce` in place of `{several[0]}`"
    if spec.get("selector"):
        return "volumes are made for a claim, not chosen: remove `selector`"
    if spec.get("dataSource") or spec.get("dataSourceRef"):
        return "volumes begin empty: remove `dataSource` and `dataSourceRef`"
    return None


@dataclass(frozen=True)
class Volume:
    """A PersistentVolume of ours.

    path:      of its folder, on its node
    claim:     uid of the claim that it is for
    phase:     e.g. ``Bound``, ``Released``
    leaving:   whether somebody has deleted it
    finalized: whether it waits for us before it goes
    """

    name: str
    node: str
    path: Path
    capacity: int
    policy: str
    claim: str
    phase: str
    leaving: bool
    finalized: bool

    @classmethod
    def read(cls, obj: Any) -> Volume | None:
        """Read one, None for that of another provisioner, or one that is none of the kind that we make."""
        metadata, spec = obj["metadata"], obj["spec"]
        node = node_of(obj)
        if node is None:
            return None
        return cls(
            name=metadata["name"],
            node=node,
            path=Path(spec["local"]["path"]),
            capacity=parse(spec["capacity"]["storage"]),
            policy=spec["persistentVolumeReclaimPolicy"],
            claim=spec.get("claimRef", {}).get("uid", ""),
            phase=obj.get("status", {}).get("phase", "Pending"),
            leaving="deletionTimestamp" in metadata,
            finalized=FINALIZER in metadata.get("finalizers", ()),
        )


def node_of(volume: Any) -> str | None:
    """Return the node that a PersistentVolume of ours is on, None for one that is not ours."""
    if (
        volume["metadata"].get("annotations", {}).get(PROVISIONED_BY) != PROVISIONER
        or "local" not in volume["spec"]
    ):
        return None
    terms = volume["spec"].get("nodeAffinity", {}).get("required", {}).get("nodeSelectorTerms", ())
    found = [
        name
        for term in terms
        for each in term.get("matchExpressions", ())
        if each["key"] == HOSTNAME
        for name in each.get("values", ())
    ]
    return str(found[0]) if len(found) == 1 else None


def volume_object(name: str, claim: Any, path: Path, node: str, size: int, policy: str) -> Object:
    """Return the PersistentVolume for a claim, which is given as the API has it."""
    metadata, spec = claim["metadata"], claim["spec"]
    here = {"key": HOSTNAME, "operator": "In", "values": [node]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}, "finalizers": [FINALIZER]},
        "spec": {
            "accessModes": spec["accessModes"],
            "capacity": {"storage": write(size)},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                **{key: metadata[key] for key in ("namespace", "name", "uid")},
            },
            "local": {"path": str(path)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            "persistentVolumeReclaimPolicy": policy,
            "storageClassName": spec["storageClassName"],
            "volumeMode": "Filesystem",
        },
    }
