# SPDX-License-Identifier: Apache-2.0
"""A node's own record of a cluster of several machines: it boots by this without asking anybody."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from firstboot.cluster.settings import SECTIONS
from firstboot.record import Record


@dataclass(frozen=True)
class Membership(Record):
    """What a node has been told.

    settings:       what the cluster had when the node joined; what it has followed since is in followed
    control_planes: addresses of all control planes, in order
    peers:          members of the datastore when this control plane joined it, in the form that the datastore wants;
                    empty on the control plane that started the cluster, and on workers
    external:       `datastore.external` as another control plane has told it, for one whose document has none
    """

    settings: dict[str, Any]
    control_planes: tuple[str, ...]
    peers: tuple[str, ...] = ()
    external: dict[str, Any] | None = field(default=None, repr=False)

    REMEDY = "Restore it from a backup, or reset the node and join again."

    @classmethod
    def read(cls, data: Any) -> Self:
        """Return the record of JSON data."""
        settings = {section: dict(data["settings"][section]) for section in SECTIONS}
        external = data.get("external")
        return cls(
            settings,
            tuple(data["control_planes"]),
            tuple(data["peers"]),
            None if external is None else dict(external),
        )
