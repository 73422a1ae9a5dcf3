# SPDX-License-Identifier: Apache-2.0
"""Objects of users that a change of the cluster's settings would leave without a feature that they need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from firstboot.cluster.settings import Values
from firstboot.codes import Code
from firstboot.failure import Failure
from firstboot.kube import Client
from firstboot.storage import PROVISIONED_BY, PROVISIONER

STORAGE_PROVISIONER = "volume.kubernetes.io/storage-provisioner"
"""On a claim: who is to make its volume, once its pod has a node."""
MOST = 10
"""How many are named."""


async def orphans(client: Client, before: Values, after: Values) -> tuple[Failure, ...]:
    """Return a failure for each feature that is switched off or moved away although objects need it; settings by path.

    Raises KubeError.
    """
    failures = []
    for path, users in USERS.items():
        if _goes(path, before, after) and (names := await users(client)):
            more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
            found = f"{', '.join(names[:MOST])}{more} would be left without it"
            remedy = "Remove them first, or switch it off all the same: --force."
            failures.append(Failure(Code.FEATURE_IN_USE, path, found, remedy))
    return tuple(failures)


def _goes(path: str, before: Values, after: Values) -> bool:
    """Whether what is at a path, a switch or a place, will not be there any more; a place only while it is used."""
    was = before.get(path)
    if isinstance(was, bool):
        return was and after.get(path) is False
    used = f"{path.rpartition('.')[0]}.enabled"
    return before.get(used) is True and after.get(used) is True and was != after.get(path)


async def _autoscalers(client: Client) -> list[str]:
    """Return the HorizontalPodAutoscalers that look at what pods use."""
    found = await client.get("/apis/autoscaling/v2/horizontalpodautoscalers")
    return sorted(
        f"HorizontalPodAutoscaler {each['metadata']['namespace']}/{each['metadata']['name']}"
        for each in found["items"]
        if any(kind in ("Resource", "ContainerResource") for kind in _kinds(each))
    )


def _kinds(autoscaler: Mapping[str, Any]) -> Iterator[str]:
    for metric in autoscaler["spec"].get("metrics", ()):
        yield metric["type"]


async def _volumes(client: Client) -> list[str]:
    """Return the claims that have a volume of local storage, those that wait for one, and volumes without a claim."""
    volumes = (await client.get("/api/v1/persistentvolumes"))["items"]
    claims = (await client.get("/api/v1/persistentvolumeclaims"))["items"]
    return sorted(
        [
            *(_volume(each) for each in volumes if _annotated(each, PROVISIONED_BY)),
            *(_claim(each["metadata"]) for each in claims if _waits(each)),
        ]
    )


def _volume(volume: Mapping[str, Any]) -> str:
    claim = volume["spec"].get("claimRef")
    bound = volume.get("status", {}).get("phase") == "Bound"
    return _claim(claim) if claim and bound else f"PersistentVolume {volume['metadata']['name']}"


def _claim(named: Mapping[str, Any]) -> str:
    return f"PersistentVolumeClaim {named['namespace']}/{named['name']}"


def _waits(claim: Mapping[str, Any]) -> bool:
    """Whether a claim has been given to local storage, and has no volume yet."""
    return _annotated(claim, STORAGE_PROVISIONER) and not claim["spec"].get("volumeName")


def _annotated(obj: Mapping[str, Any], annotation: str) -> bool:
    return bool(obj["metadata"].get("annotations", {}).get(annotation) == PROVISIONER)


USERS: Mapping[str, Callable[[Client], Awaitable[list[str]]]] = {
    "features.local-storage.enabled": _volumes,
    "features.local-storage.local-path": _volumes,
    "features.metrics-server.enabled": _autoscalers,
}
"""Switch of a feature, or its place -> who finds the objects that need it."""
