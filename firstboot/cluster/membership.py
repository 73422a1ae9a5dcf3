# SPDX-License-Identifier: Apache-2.0
"""A node's own record of a cluster of several machines: it boots by this without asking anybody."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from firstboot import files
from firstboot.cluster.settings import SECTIONS
from firstboot.failure import BasaltError


@dataclass(frozen=True)
class Membership:
    """What a node has been told.

    settings:       as in firstboot.cluster.settings
    control_planes: addresses of all control planes, in order
    peers:          members of the datastore when this control plane joined it, in the form that the datastore wants;
                    empty on the control plane that started the cluster, and on workers
    """

    settings: dict[str, Any]
    control_planes: tuple[str, ...]
    peers: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Return the record, None on a node that is alone. Raises BasaltError when it is damaged."""
        text = files.read_or_none(path)
        if text is None:
            return None
        try:
            record = json.loads(text)
            settings = {section: dict(record["settings"][section]) for section in SECTIONS}
            return cls(settings, tuple(record["control_planes"]), tuple(record["peers"]))
        except (ValueError, KeyError, TypeError) as error:
            raise BasaltError(
                f"{path} is damaged: {error!r}", "Restore it from a backup, or reset the node and join again."
            ) from error

    def save(self, path: Path) -> None:
        """Record it, durably; from now on the node is a member."""
        files.write(path, json.dumps(asdict(self), indent=2) + "\n", 0o600)
