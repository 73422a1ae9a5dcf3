# SPDX-License-Identifier: Apache-2.0
"""Events of the API: what a service tells users about an object of theirs. Said once more, it is counted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

from firstboot.kube import Client, KubeError, Object


@dataclass(frozen=True)
class Teller:
    """Who tells.

    component: the service
    host:      the node that it speaks for, empty when it is the cluster's
    """

    client: Client
    component: str
    host: str = ""

    async def tell(self, about: Mapping[str, str], kind: str, reason: str, text: str) -> None:
        """Make an Event, or count the one that is there. Raises KubeError.

        about: reference to the object, with its uid; kind: ``Normal`` or ``Warning``
        """
        wanted = self._event(about, kind, reason, text)
        place = f"/api/v1/namespaces/{wanted['metadata']['namespace']}/events"
        try:
            await self.client.send("POST", place, wanted)
            return
        except KubeError as error:
            # A namespace that is being removed takes no Events.
            if error.status not in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN):
                raise
        path = f"{place}/{wanted['metadata']['name']}"
        found = await self.client.get(path)
        if found is not None:
            found["count"] = found.get("count", 1) + 1
            found["lastTimestamp"] = wanted["lastTimestamp"]
            await self.client.send("PUT", path, found)

    def _event(self, about: Mapping[str, str], kind: str, reason: str, text: str) -> Object:
        """Return an Event; that about the same thing with the same text has the same name."""
        digest = hashlib.sha256("\n".join((about["uid"], self.host, reason, text)).encode()).hexdigest()[:16]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        namespace = about.get("namespace", "default")
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{about['name'][:200]}.{digest}", "namespace": namespace},
            "involvedObject": dict(about),
            "type": kind,
            "reason": reason,
            "message": text,
            "source": {"component": self.component, **({"host": self.host} if self.host else {})},
            "reportingComponent": self.component,
            "reportingInstance": self.host,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
