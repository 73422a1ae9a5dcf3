# SPDX-License-Identifier: Apache-2.0
"""What local storage keeps on the disks of nodes, for those who are about to take a node or the feature away."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from firstboot.kube import Client, KubeError
from firstboot.storage import FINALIZER, PROVISIONED_BY, PROVISIONER
from firstboot.storage.objects import node_of

VOLUMES = "/api/v1/persistentvolumes"
STORAGE_PROVISIONER = "volume.kubernetes.io/storage-provisioner"
"""On a claim: who is to make its volume, once its pod has a node."""


async def users(client: Client) -> list[str]:
    """Return the claims that have a volume or wait for one, and volumes without a claim. Raises KubeError."""
    claims = (await client.get("/api/v1/persistentvolumeclaims"))["items"]
    waiting = [_claim(each["metadata"]) for each in claims if _waits(each)]
    return sorted([*(shown(each) for each in await _volumes(client)), *waiting])


async def on_node(client: Client, node: str) -> list[str]:
    """Return what is kept on one node's disk: claims, and volumes without one. Raises KubeError.

    What somebody has deleted already is given up.
    """
    own = [each for each in await _volumes(client) if node_of(each) == node]
    return sorted(shown(each) for each in own if "deletionTimestamp" not in each["metadata"])


async def forget(client: Client, node: str) -> None:
    """Delete the volumes of a node that there is no more; one that has a claim goes with it. Raises KubeError."""
    for volume in await _volumes(client):
        if node_of(volume) != node:
            continue
        path = f"{VOLUMES}/{volume['metadata']['name']}"
        try:
            await client.send("DELETE", path)
            # Who would remove its data first is gone, and so is the data.
            if (found := await client.get(path)) is not None:
                kept = [each for each in found["metadata"].get("finalizers", ()) if each != FINALIZER]
                await client.send(
                    "PUT", path, {**found, "metadata": {**found["metadata"], "finalizers": kept}}
                )
        except KubeError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise


def shown(volume: Mapping[str, Any]) -> str:
    """Return the name of a volume's claim, its own where it has none."""
    claim = volume["spec"].get("claimRef")
    bound = volume.get("status", {}).get("phase") == "Bound"
    return _claim(claim) if claim and bound else f"PersistentVolume {volume['metadata']['name']}"


async def _volumes(client: Client) -> list[Any]:
    found = (await client.get(VOLUMES))["items"]
    return [each for each in found if _annotated(each, PROVISIONED_BY)]


def _claim(named: Mapping[str, Any]) -> str:
    return f"PersistentVolumeClaim {named['namespace']}/{named['name']}"


def _waits(claim: Mapping[str, Any]) -> bool:
    """Whether a claim has been given to local storage, and has no volume yet."""
    return _annotated(claim, STORAGE_PROVISIONER) and not claim["spec"].get("volumeName")


def _annotated(obj: Mapping[str, Any], annotation: str) -> bool:
    return bool(obj["metadata"].get("annotations", {}).get(annotation) == PROVISIONER)
