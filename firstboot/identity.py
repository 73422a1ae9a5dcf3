# SPDX-License-Identifier: Apache-2.0
"""What a node has become and cannot stop being by a change of its document.

A cluster's networks and domain are in certificates, objects and addresses; its objects are in its datastore.
A document that changes them would start an empty cluster beside the old one's data, so it is refused.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

from firstboot import files
from firstboot.codes import Code
from firstboot.config import Config
from firstboot.failure import BasaltError, Failure

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
class Identity:
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

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Return what the node is, None for a new one. Raises BasaltError when the record is damaged."""
        text = files.read_or_none(path)
        if text is None:
            return None
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise BasaltError(
                f"{path} is damaged: {error}", "Restore it from a backup, or reset the node."
            ) from error

    def save(self, path: Path) -> None:
        """Record it; from now on the node is this."""
        files.write(path, json.dumps(asdict(self), indent=2) + "\n", 0o600)

    def refuses(self, wanted: Identity) -> tuple[Failure, ...]:
        """Return a failure for each setting that the wanted identity would change."""
        changed = [
            field.name for field in fields(self) if getattr(self, field.name) != getattr(wanted, field.name)
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
