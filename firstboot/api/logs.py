# SPDX-License-Identifier: Apache-2.0
"""The journal of one component: which ones there are, and how journalctl is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from firstboot.config import Service

DEFAULT_LINES = 100
MAX_LINES = 10_000

OTHERS = (
    *("network-policy", "traefik", "local-storage"),
    *("load-balancer", "load-balancer-l2", "load-balancer-bgp"),
    *("api-balancer", "virtual-address", "virtual-address-watch"),
)
"""Services that take no arguments of a document."""
UNITS: Mapping[str, Sequence[str]] = {
    "basalt": ("basalt.service",),
    **{service.value: (f"{service.value}.service",) for service in Service},
    **{unit: (f"{unit}.service",) for unit in OTHERS},
    "images": ("basalt-images.service",),
    "cloud-init": ("cloud-init*.service", "cloud-config.service", "cloud-final.service"),
    "network": ("systemd-networkd.service", "systemd-resolved.service"),
    "time": ("systemd-timesyncd.service",),
}
"""Component -> its units. Only these can be read: the journal as a whole is nobody's component."""


def command(component: str, lines: int, follow: bool) -> list[str]:
    """Return the command that prints the newest lines, and with follow also those to come.

    Raises KeyError for an unknown component.
    """
    units = [f"--unit={unit}" for unit in UNITS[component]]
    return [
        "journalctl",
        "--no-pager",
        "--quiet",
        "--output=short-iso",
        f"--lines={lines}",
        *(["--follow"] if follow else []),
        *units,
    ]
