# SPDX-License-Identifier: Apache-2.0
"""What a node says of itself to the scheduler: labels and taints."""

from __future__ import annotations

from firstboot.codes import Code
from firstboot.rules.model import Rules
from firstboot.schemacheck import show
from firstboot.values import is_restricted


def check(rules: Rules) -> None:
    """Note labels and taints that a node cannot have."""
    _labels(rules)
    _taints(rules)


def _labels(rules: Rules) -> None:
    """A node sets no label that the API server forbids a node to set."""
    for path, _ in rules.entries(("basalt", "node", "labels")):
        key = str(path[-1])
        if is_restricted(key):
            rules.fail(
                Code.RESTRICTED_LABEL,
                path,
                f"a node may not set `{show(key)}` on itself",
                "Use a key of your own domain, or set it with kubectl once the node is Ready.",
            )


def _taints(rules: Rules) -> None:
    """A taint's key and effect stand only once."""
    seen: dict[tuple[str, str], int] = {}
    for path, text in rules.entries(("basalt", "node", "taints")):
        key_value, _, effect = text.rpartition(":")
        identity = (key_value.partition("=")[0], effect)
        if identity in seen:
            rules.fail(
                Code.DUPLICATE_TAINT,
                path,
                f"`{show(text)}` has the key and effect of item {seen[identity]}",
                "Keep one of the two.",
            )
        seen.setdefault(identity, int(path[-1]))
