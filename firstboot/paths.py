# SPDX-License-Identifier: Apache-2.0
"""Where things are on a node."""

from __future__ import annotations

from pathlib import Path

STATE = Path("/var/lib/basalt")
RUN = Path("/run/basalt")
SHARE = Path("/usr/share/basalt")
ARGUMENTS = RUN / "args"
API_SOCKET = RUN / "api.sock"
API_VERDICT = Path("/run/virtual-address-watch/unready")
"""What keepalived knows of the API server of this machine: written by firstboot.apiwatch."""
POLICY_LACKS = Path("/run/network-policy/lacks")
"""What keeps the cluster's policies from being enforced as they are written: kept by firstboot.policy.service."""

KUBERNETES = Path("/etc/kubernetes")
PKI = KUBERNETES / "pki"

CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")
CONTAINERD_REGISTRIES = Path("/etc/containerd/certs.d")
CNI_CONFIG = Path("/etc/cni/net.d/10-basalt.conflist")
FLANNEL_SUBNET = Path("/run/flannel/subnet.env")
DQLITE_SOCKET = Path("/run/k8s-dqlite/kine.sock")
RESOLV_CONF = Path("/run/systemd/resolve/resolv.conf")
