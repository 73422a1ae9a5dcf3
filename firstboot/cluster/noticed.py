# SPDX-License-Identifier: Apache-2.0
"""A node's own record that its cluster has network policies: it starts with what enforces them."""

from __future__ import annotations

from dataclasses import dataclass

from firstboot.record import Record

FILE = "policies.json"
"""Its name, beside the record of membership."""


@dataclass(frozen=True)
class Noticed(Record):
    """There while the cluster has any; since: when the node noticed (RFC 3339, UTC)."""

    since: str

    REMEDY = "Remove the file: the node looks for policies again."
