# SPDX-License-Identifier: Apache-2.0
"""dqlite: SQLite replicated by Raft, behind the etcd API on a unix socket of this machine."""

from __future__ import annotations

from firstboot.datastores import Endpoint
from firstboot.paths import DQLITE_SOCKET, PKI
from firstboot.probes import SocketProbe
from firstboot.services.model import Node, Service

ENDPOINT = Endpoint({"etcd-servers": f"unix://{DQLITE_SOCKET}"})


PORT = 9000


def service(node: Node) -> Service:
    """Return the datastore: alone it listens to this machine only, with partners to who has a certificate."""
    host = node.ip if node.control_planes else "127.0.0.1"
    return Service(
        unit="k8s-dqlite",
        probe=SocketProbe(DQLITE_SOCKET),
        arguments={
            "storage-dir": "/var/lib/k8s-dqlite",
            "listen": f"unix://{DQLITE_SOCKET}",
            "address": peer(host),
            **(_partners(node) if node.control_planes else {}),
        },
    )


def peer(host: str) -> str:
    """Return how members know the one on a host."""
    return f"{host}:{PORT}"


def _partners(node: Node) -> dict[str, str]:
    joined = {"cluster": ",".join(node.peers)} if node.peers else {}
    return {
        "tls-cert": f"{PKI}/dqlite/member.crt",
        "tls-key": f"{PKI}/dqlite/member.key",
        "tls-ca": f"{PKI}/dqlite/ca.crt",
        **joined,
    }
