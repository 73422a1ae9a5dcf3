# SPDX-License-Identifier: Apache-2.0
"""What keeps the cluster's objects. Each speaks the etcd API, so only the API server's flags differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from firstboot.files import File

NOT_OURS = "the datastore is an etcd that somebody else runs, who also backs it up"
ASK_ITS_OWNER = (
    "Ask who runs it: `etcdctl snapshot save` takes a backup, `etcdctl defrag` gives back disk space."
)


@dataclass(frozen=True)
class Endpoint:
    """How the API server reaches a datastore: flags of kube-apiserver without dashes -> values.

    files: that the flags name and nobody else writes
    """

    arguments: Mapping[str, str] = field(default_factory=dict)
    files: tuple[File, ...] = field(default=(), repr=False)
