# SPDX-License-Identifier: Apache-2.0
"""What keeps the cluster's objects. Each speaks the etcd API, so only the API server's flags differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Endpoint:
    """How the API server reaches a datastore: flags of kube-apiserver without dashes -> values."""

    arguments: Mapping[str, str] = field(default_factory=dict)
