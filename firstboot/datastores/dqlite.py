# SPDX-License-Identifier: Apache-2.0
"""dqlite: SQLite replicated by Raft, behind the etcd API on a unix socket of this machine."""

from __future__ import annotations

from firstboot.datastores import Endpoint
from firstboot.paths import DQLITE_SOCKET
from firstboot.probes import SocketProbe
from firstboot.services.model import Node, Service

ENDPOINT = Endpoint({"etcd-servers": f"unix://{DQLITE_SOCKET}"})


def service(node: Node) -> Service:
    """Return the datastore of one member: it listens to this machine only, for there is no other member."""
    return Service(
        unit="k8s-dqlite",
        probe=SocketProbe(DQLITE_SOCKET),
        arguments={
            "storage-dir": "/var/lib/k8s-dqlite",
            "listen": f"unix://{DQLITE_SOCKET}",
            "address": "127.0.0.1:9000",
        },
    )
