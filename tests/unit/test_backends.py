# SPDX-License-Identifier: Apache-2.0
"""What a backend of the pod network leaves behind goes when the cluster uses another."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from firstboot import run
from firstboot.config import NetworkBackend
from firstboot.steps.backends import OtherBackends
from firstboot.steps.model import Machine

PODS = ("10.1.0.0/16", "fd01::/48")
ROUTES = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
enp1s0	00000000	014DA8C0	0003	0	0	1024	00000000	0	0	0
enp1s0	004DA8C0	00000000	0001	0	0	1024	00FFFFFF	0	0	0
cni0	0000010A	00000000	0001	0	0	0	00FFFFFF	0	0	0
"""
TO_ANOTHER_NODE = "{device}	0001010A	{gateway}	0003	0	0	0	00FFFFFF	0	0	0\n"
NONE = "0" * 32
NEIGHBOUR, NEIGHBOUR6 = "024DA8C0", "fd980000000000000000000000000002"
OWN, OTHER = "fd010000000000000000000000000000", "fd010000000000010000000000000000"


def route6(network: str, length: str, gateway: str, device: str) -> str:
    """Return a line of the kernel's table of IPv6 routes."""
    return f"{network} {length} {NONE} 00 {gateway} 00000400 00000001 00000000 00000003 {device:>8}\n"


def kernel(root: Path, *links: str, device: str | None = None) -> Path:
    """Make the tables of a kernel; device: by which another node's pods are reached through a gateway."""
    for link in ("lo", "enp1s0", "cni0", *links):
        (root / "sys/class/net" / link).mkdir(parents=True)
    tables = root / "proc/net"
    tables.mkdir(parents=True)
    way = TO_ANOTHER_NODE.format(device=device, gateway=NEIGHBOUR) if device else ""
    (tables / "route").write_text(ROUTES + way)
    lines = [route6(OWN, "40", NONE, "cni0"), route6(NONE, "00", NEIGHBOUR6, "enp1s0")]
    if device:
        lines.append(route6(OTHER, "40", NEIGHBOUR6, device))
    (tables / "ipv6_route").write_text("".join(lines))
    return root


@pytest.mark.parametrize(
    ("backend", "links", "device", "removed"),
    [
        (NetworkBackend.VXLAN, ["flannel.1", "flannel-v6.1"], "flannel.1", []),
        (NetworkBackend.HOST_GW, [], "enp1s0", []),
        (NetworkBackend.WIREGUARD, ["flannel-wg"], None, []),
        (NetworkBackend.WIREGUARD, ["flannel.1", "flannel-wg"], "flannel.1", ["link flannel.1"]),
        (
            NetworkBackend.HOST_GW,
            ["flannel-wg", "flannel-wg-v6"],
            None,
            ["link flannel-wg", "link flannel-wg-v6"],
        ),
        (NetworkBackend.VXLAN, ["flannel.1"], "enp1s0", ["10.1.1.0/24", "fd01:0:0:1::/64"]),
        (None, ["flannel.1"], "enp1s0", ["link flannel.1", "10.1.1.0/24", "fd01:0:0:1::/64"]),
        (None, [], None, []),
    ],
)
def test_only_what_is_of_another_backend_is_removed(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    backend: NetworkBackend | None,
    links: list[str],
    device: str | None,
    removed: list[str],
) -> None:
    asked: list[str] = []

    async def record(argv: list[str], *, timeout: float) -> None:
        asked.append(f"link {argv[-1]}" if argv[1] == "link" else argv[-1])

    monkeypatch.setattr(run, "run_async", record)
    step = OtherBackends(backend, PODS, kernel(tmp_path, *links, device=device))
    finding = asyncio.run(step.check(cast(Machine, None)))
    assert (finding is not None) is bool(removed)
    if finding:
        assert removed[-1].removeprefix("link ") in finding.reason
        asyncio.run(step.apply(cast(Machine, None)))
    assert asked == removed
