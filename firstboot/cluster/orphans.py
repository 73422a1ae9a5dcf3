# SPDX-License-Identifier: Apache-2.0
"""Objects of users that a change of the cluster's settings would leave without a feature that they need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from firstboot.cluster import volumes
from firstboot.cluster.settings import Values
from firstboot.codes import Code
from firstboot.failure import Failure
from firstboot.kube import Client

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


USERS: Mapping[str, Callable[[Client], Awaitable[list[str]]]] = {
    "features.local-storage.enabled": volumes.users,
    "features.local-storage.local-path": volumes.users,
    "features.metrics-server.enabled": _autoscalers,
}
"""Switch of a feature, or its place -> who finds the objects that need it."""
