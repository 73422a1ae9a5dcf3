# SPDX-License-Identifier: Apache-2.0
"""The networks of pods and Services."""

from __future__ import annotations

from collections.abc import Mapping

from firstboot.codes import Code
from firstboot.rules.model import POD_CIDR, SERVICE_CIDR, Rules
from firstboot.strictyaml import Path
from firstboot.values import Network

SECOND: Mapping[Path, str] = {POD_CIDR: "fd01::/48", SERVICE_CIDR: "fd98::/112"}
"""What a remedy names as an IPv6 network."""


def check(rules: Rules) -> None:
    """The networks of the cluster are networks, of a useful size, of the same versions, and apart."""
    found = {path: rules.networks_at(path) for path in (POD_CIDR, SERVICE_CIDR)}
    if not all(found.values()):
        return
    path, other = POD_CIDR, SERVICE_CIDR
    if rules.value(POD_CIDR) is None:
        path, other = SERVICE_CIDR, POD_CIDR
    default = "" if rules.value(other) else " (its default)"
    for mine, theirs in zip(found[path], found[other], strict=False):
        if mine.overlaps(theirs):
            rules.fail(
                Code.OVERLAP,
                path,
                f"{mine} overlaps with `{other[-1]}`, which is {theirs}{default}",
                "Choose two networks that share no address.",
            )
    _both_or_neither(rules, found)


def _both_or_neither(rules: Rules, found: Mapping[Path, tuple[Network, ...]]) -> None:
    """Where pods have IPv6 addresses Services have them too."""
    path, other = sorted(found, key=lambda each: len(found[each]))
    if len(found[path]) == len(found[other]):
        return
    default = "" if rules.value(path) else ", its default,"
    have = f"{found[path][0]}{default} has no IPv6 network beside it, and `{other[-1]}` has one"
    wanted = f"{found[path][0]},{SECOND[path]}"
    remedy = f"Write `{path[-1]}: {wanted}`, or take {found[other][1]} out of `{other[-1]}`."
    # What is not in the document is no place to look at.
    if rules.value(path):
        rules.fail(Code.WRONG_FAMILY, path, have, remedy)
    else:
        rules.fail(Code.WRONG_FAMILY, other, f"`{path[-1]}` {have}", remedy)
