# SPDX-License-Identifier: Apache-2.0
"""Tests in network namespaces of the host need root, nft, and a kernel that filters on bridges."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from image import host

PROGRAMS = {"/usr/sbin/nft": "nftables", "/usr/bin/ip": "iproute2"}


@pytest.fixture(scope="session")
def netns() -> None:
    """Skip where this host cannot."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    host.require_packages(PROGRAMS)
    if not Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists():
        pytest.skip("this kernel does not filter on bridges (br_netfilter)")
