# SPDX-License-Identifier: Apache-2.0
"""Where the service, its two programs and the agent find what they have from each other."""

from __future__ import annotations

from pathlib import Path

from firstboot.paths import KUBERNETES

SETTINGS = KUBERNETES / "load-balancer.json"
FOLDER = Path("/run/load-balancer")
L2, BGP = FOLDER / "l2.conf", FOLDER / "bgp.conf"
LACKS, ACCOUNT = FOLDER / "lacks", FOLDER / "account"
"""What does not work, and what there is to say all the same: for the agent's status."""
L2_PID = Path("/run/load-balancer-l2/main.pid")
BGP_PID, BGP_CONTROL = Path("/run/load-balancer-bgp/bird.pid"), Path("/run/load-balancer-bgp/bird.ctl")

IDENTITY, ALLOCATOR = "load-balancer", "load-balancer-allocator"
"""Certificates: that of every node, and that of control planes, which may change Services."""
LEASE_NAMESPACE = "kube-system"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{LEASE_NAMESPACE}/leases/load-balancer"


def tries_l2(path: Path) -> list[str]:
    """Return the command that says whether keepalived accepts a configuration."""
    return ["keepalived", "--config-test", f"--use-file={path}"]


def tries_bgp(path: Path) -> list[str]:
    """Return the command that says whether BIRD accepts a configuration."""
    return ["bird", "-p", "-c", str(path)]
