# SPDX-License-Identifier: Apache-2.0
"""dqlite: SQLite replicated by Raft, behind the etcd API on a unix socket of this machine."""

from __future__ import annotations

import json
from typing import Any

from firstboot import run
from firstboot.datastores import Endpoint
from firstboot.failure import BasaltError
from firstboot.paths import DQLITE_SOCKET, PKI
from firstboot.probes import SocketProbe
from firstboot.services.model import Node, Service

SECONDS = 10.0
"""How long k8s-dqlite may take to tell its status."""
REMOVE_SECONDS = 45.0
"""How long k8s-dqlite may take to remove a member: another one may have to take over first."""

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


async def members() -> list[dict[str, Any]]:
    """Return the members as the leader knows them: `address`, `role` (voter, stand-by, spare). Raises BasaltError."""
    answer = await run.run_async(["k8s-dqlite", "status"], timeout=SECONDS)
    status = json.loads(answer.stdout)
    if not status["healthy"]:
        raise BasaltError(f"the datastore does not answer: {status['error']}", "It goes on by itself.")
    found: list[dict[str, Any]] = status["members"]
    return found


async def answers() -> list[dict[str, Any]]:
    """Return the members as in `members()`, with `answers`: whether each answers now. Raises BasaltError."""
    answer = await run.run_async(["k8s-dqlite", "members"], timeout=SECONDS)
    found: list[dict[str, Any]] = json.loads(answer.stdout)
    return found


async def remove(address: str) -> None:
    """Take the member of that address out. Raises BasaltError."""
    await run.run_async(["k8s-dqlite", "remove", address], timeout=REMOVE_SECONDS)


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
