# SPDX-License-Identifier: Apache-2.0
"""The pods of a node that leaves: evicted as their disruption budgets allow, or deleted where the node is lost."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self

from firstboot.kube import Client, KubeError, Object

GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
"""Answers to an eviction: the pod has gone, or another has its name."""
FINISHED = ("Succeeded", "Failed")
MIRROR = "kubernetes.io/config.mirror"


@dataclass(frozen=True)
class Pod:
    """A pod that has to leave; stops: whether it has been told so already."""

    namespace: str
    name: str
    uid: str
    stops: bool

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Read a pod of the API."""
        found = data["metadata"]
        return cls(found["namespace"], found["name"], found["uid"], "deletionTimestamp" in found)

    @property
    def path(self) -> str:
        """Where it is in the API."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


async def pods(client: Client, node: str) -> tuple[Pod, ...]:
    """Return the pods that have to leave a node, by name. Raises KubeError."""
    found = await client.get(f"/api/v1/pods?fieldSelector=spec.nodeName%3D{node}")
    moving = (Pod.from_dict(each) for each in found["items"] if _moves(each))
    return tuple(sorted(moving, key=str))


async def evict(client: Client, pod: Pod) -> bool:
    """Ask for a pod to be stopped; False where its disruption budget does not allow it now. Raises KubeError."""
    eviction: Object = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod.name, "namespace": pod.namespace},
        "deleteOptions": {"preconditions": {"uid": pod.uid}},
    }
    try:
        await client.send("POST", f"{pod.path}/eviction", eviction)
    except KubeError as error:
        if error.status == HTTPStatus.TOO_MANY_REQUESTS:
            # A budget does not allow it now.
            return False
        if error.status not in GONE:
            raise
    return True


async def delete(client: Client, pod: Pod) -> None:
    """Delete a pod at once: nobody is there who could stop it. Raises KubeError."""
    try:
        await client.send("DELETE", f"{pod.path}?gracePeriodSeconds=0")
    except KubeError as error:
        if error.status not in GONE:
            raise


def _moves(pod: Any) -> bool:
    """Whether a pod is neither the node's own, nor finished: those of a DaemonSet would come again at once."""
    metadata = pod["metadata"]
    if MIRROR in metadata.get("annotations", {}) or pod.get("status", {}).get("phase") in FINISHED:
        return False
    return all(owner["kind"] != "DaemonSet" for owner in metadata.get("ownerReferences", ()))
