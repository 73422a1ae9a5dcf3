# SPDX-License-Identifier: Apache-2.0
"""etcd, by TLS with client certificates on the loopback address."""

from __future__ import annotations

from firstboot.datastores import Endpoint
from firstboot.paths import PKI
from firstboot.probes import HttpProbe
from firstboot.services.model import Node, Service

URL = "https://127.0.0.1:2379"
PEER_URL = "https://127.0.0.1:2380"
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
    """Return the datastore of one member: it listens to this machine only, for there is no other member."""
    return Service(
        unit="etcd",
        probe=HttpProbe(f"{HEALTH_URL}/health"),
        arguments={
            "name": node.name,
            "data-dir": "/var/lib/etcd",
            "listen-client-urls": URL,
            "advertise-client-urls": URL,
            "listen-peer-urls": PEER_URL,
            "initial-advertise-peer-urls": PEER_URL,
            "initial-cluster": f"{node.name}={PEER_URL}",
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
