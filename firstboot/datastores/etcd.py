# SPDX-License-Identifier: Apache-2.0
"""etcd, by TLS with client certificates on the loopback address."""

from __future__ import annotations

from typing import Any

from firstboot.datastores import Endpoint
from firstboot.kube import Client, Trust
from firstboot.paths import PKI
from firstboot.probes import HttpProbe
from firstboot.services.model import Node, Service

URL = "https://127.0.0.1:2379"
LOOPBACK = "127.0.0.1"
HEALTH_URL = "http://127.0.0.1:2381"

ENDPOINT = Endpoint(
    arguments={
        "etcd-servers": URL,
        "etcd-cafile": f"{PKI}/etcd/ca.crt",
        "etcd-certfile": f"{PKI}/apiserver-etcd-client.crt",
        "etcd-keyfile": f"{PKI}/apiserver-etcd-client.key",
    },
)


def service(node: Node) -> Service:
    """Return the datastore: alone it listens to this machine only, with partners to who has a certificate."""
    own = peer_url(node.ip if node.control_planes else LOOPBACK)
    # The member's address in the cluster is moved by a request (firstboot.cluster.partners), not by these arguments:
    # etcd heeds those that begin with "initial" at its very first start only.
    return Service(
        unit="etcd",
        probe=HttpProbe(f"{HEALTH_URL}/health"),
        arguments={
            "name": node.name,
            "data-dir": "/var/lib/etcd",
            "listen-client-urls": URL,
            "advertise-client-urls": URL,
            "listen-peer-urls": own,
            "initial-advertise-peer-urls": own,
            "initial-cluster": ",".join(node.peers) or f"{node.name}={own}",
            "initial-cluster-state": "existing" if node.peers else "new",
            "listen-metrics-urls": HEALTH_URL,
            "client-cert-auth": "true",
            "trusted-ca-file": f"{PKI}/etcd/ca.crt",
            "cert-file": f"{PKI}/etcd/server.crt",
            "key-file": f"{PKI}/etcd/server.key",
            "peer-client-cert-auth": "true",
            "peer-trusted-ca-file": f"{PKI}/etcd/ca.crt",
            "peer-cert-file": f"{PKI}/etcd/peer.crt",
            "peer-key-file": f"{PKI}/etcd/peer.key",
            "auto-compaction-mode": "periodic",
            "auto-compaction-retention": "5m",
            "quota-backend-bytes": str(8 * 1024**3),
        },
    )


def peer_url(host: str) -> str:
    """Return where the member on a host listens to its partners."""
    return f"https://{host}:2380"


async def members(client: Client, request: str = "list", **body: Any) -> list[dict[str, Any]]:
    """Return the members after a request of etcd's cluster API, e.g. list, add or remove. Raises KubeError."""
    answer = await client.call("POST", f"{URL}/v3/cluster/member/{request}", Trust.ETCD, body)
    found: list[dict[str, Any]] = answer["members"]
    return found
