# SPDX-License-Identifier: Apache-2.0
"""What a node has become and cannot stop being by a change of its document.

A cluster's networks and domain are in certificates, objects and addresses; its objects are in its datastore.
A document that changes them would start an empty cluster beside the old one's data, so it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

from firstboot.codes import Code
from firstboot.config import Config, Role
from firstboot.failure import Failure
from firstboot.record import Record

PATHS = {
    "role": "basalt.role",
    "name": "basalt.node.name",
    "datastore": "basalt.datastore.type",
    "pod_cidr": "basalt.cluster.pod-cidr",
    "service_cidr": "basalt.cluster.service-cidr",
    "domain": "basalt.cluster.domain",
}
"""Field -> where it stands in the document."""


@dataclass(frozen=True)
class Identity(Record):
    """The settings that hold for the life of a node."""

    role: str
    name: str
    datastore: str
    pod_cidr: str
    service_cidr: str
    domain: str

    @classmethod
    def of(cls, config: Config, name: str) -> Self:
        """Return the identity that a document asks for on a node with this name."""
        cluster = config.cluster
        return cls(
            role=config.role.value,
            name=name,
            datastore=config.datastore.type.value,
            pod_cidr=cluster.pod_cidr,
            service_cidr=cluster.service_cidr,
            domain=cluster.domain,
        )

    REMEDY = "Restore it from a backup, or reset the node."

    def refuses(self, wanted: Identity) -> tuple[Failure, ...]:
        """Return a failure for each setting that the wanted identity would change."""
        changed = [
            field.name
            for field in fields(self)
            if getattr(self, field.name) != getattr(wanted, field.name)
            # A worker has none: it follows its cluster, whose datastore may be moved.
            and not (field.name == "datastore" and self.role == Role.WORKER)
        ]
        return tuple(
            Failure(
                Code.FIXED_SETTING,
                PATHS[name],
                f"is {getattr(wanted, name)!r}, but this node was made with {getattr(self, name)!r}",
                "Set it back; a node keeps this for its life. To change it, reset the node and start anew.",
            )
            for name in changed
        )
