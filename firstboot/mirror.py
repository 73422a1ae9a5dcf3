# SPDX-License-Identifier: Apache-2.0
"""The objects of one kind as the API server has them, kept up to date by a watch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from firstboot.kube import Client, KubeError

T = TypeVar("T")

GONE = 410
"""The API server's answer when what happened since a version is not known any more."""
PAGE = 500
"""Objects that are asked for at once: a cluster's pods as one answer would take memory and time that is not there."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0
"""Seconds before another attempt: after the first that failed, and at most; doubled in between."""

log = logging.getLogger(__name__)


class Mirror(Generic[T]):
    """Follows a list of the API.

    objects: by ``namespace/name``, or ``name`` where there are no namespaces; complete once `synced`, and kept as it
             was last known while the API server is away
    reason:  why it may be out of date; None while it is followed
    """

    def __init__(
        self, client: Client, path: str, read: Callable[[Any], T | None], changed: Callable[[], None]
    ) -> None:
        """Follow nothing yet.

        path:    of the list, e.g. ``/api/v1/pods?fieldSelector=spec.nodeName%3Dn1``
        read:    makes of an object what is kept of it; None where it is not wanted
        changed: called after each change of objects, synced or reason
        """
        self.objects: dict[str, T] = {}
        self.synced = False
        self.reason: str | None = "has not asked the API server yet"
        self._client, self._path, self._read, self._changed = client, path, read, changed

    async def follow(self) -> None:
        """Follow for ever; what cannot be reached is tried again."""
        pause = FIRST_PAUSE
        while True:
            try:
                version = await self._list()
                pause = FIRST_PAUSE
                while True:
                    async for kind, obj in self._client.watch(self._path, version):
                        version = obj["metadata"]["resourceVersion"]
                        self._take(kind, obj)
            except KubeError as error:
                if error.status == HTTPStatus.GONE:
                    continue
                if self.reason is None:
                    log.info("%s", error)
                self._say(str(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _list(self) -> str:
        """Take in the list as it is now, and return its version."""
        objects: dict[str, T] = {}
        more = ""
        while True:
            found = await self._client.get(
                f"{self._path}{'&' if '?' in self._path else '?'}limit={PAGE}{more}"
            )
            if found is None:
                raise KubeError("GET", self._path, HTTPStatus.NOT_FOUND, "the API server does not know it")
            kept = ((_name(obj), self._read(obj)) for obj in found["items"])
            objects |= {name: value for name, value in kept if value is not None}
            if not (token := found["metadata"].get("continue")):
                break
            more = f"&continue={quote(token)}"
        self.objects = objects
        self.synced, self.reason = True, None
        self._changed()
        return str(found["metadata"]["resourceVersion"])

    def _take(self, kind: str, obj: Any) -> None:
        if kind == "BOOKMARK":
            return
        value = None if kind == "DELETED" else self._read(obj)
        before = self.objects.pop(_name(obj), None)
        if value is not None:
            self.objects[_name(obj)] = value
        if value != before:
            self._changed()

    def _say(self, reason: str | None) -> None:
        if self.reason != reason:
            self.reason = reason
            self._changed()


def _name(obj: Any) -> str:
    metadata = obj["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])
