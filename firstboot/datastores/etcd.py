# SPDX-License-Identifier: Apache-2.0
"""etcd, by TLS with client certificates on the loopback address."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from firstboot import run
from firstboot.config import DatastoreType
from firstboot.datastores import Endpoint, salvage
from firstboot.datastores.store import DatastoreStatus, Member, Salvaged, Store
from firstboot.kube import Client, Trust
from firstboot.paths import PKI
from firstboot.probes import HttpProbe
from firstboot.services.model import Node, Service

URL = "https://127.0.0.1:2379"
LOOPBACK = "127.0.0.1"
HEALTH_URL = "http://127.0.0.1:2381"
PEER_PORT = 2380
FOLDER = Path("/var/lib/etcd")

SECONDS = 600.0
"""How long etcd's tools may take with all of the data: emulated machines are slow."""

REVISION_LEAP = 1_000_000_000
"""By how much revisions go on after a restore: clients must not see again those from after the backup. The number that
etcd's documentation names."""

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
            "data-dir": str(FOLDER),
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
    return f"https://{host}:{PEER_PORT}"


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


async def members(client: Client, request: str = "list", **body: Any) -> list[dict[str, Any]]:
    """Return the members after a request of etcd's cluster API, e.g. list, add or remove. Raises KubeError."""
    answer = await client.call("POST", f"{URL}/v3/cluster/member/{request}", Trust.ETCD, body)
    found: list[dict[str, Any]] = answer["members"]
    return found


class Etcd(Store):
    """The node's member, by the gateway where its answer is small, and by etcd's own tools for all of the data."""

    unit = "etcd"
    folder = FOLDER
    port = PEER_PORT

    def __init__(self, client: Client) -> None:
        self._client = client

    async def status(self) -> DatastoreStatus:
        """Ask the own member; how others are only the leader knows by what it replicates."""
        found = await self._client.call("POST", f"{URL}/v3/maintenance/status", Trust.ETCD, {})
        own, leader = found["header"]["member_id"], found.get("leader", "0")
        return DatastoreStatus(
            DatastoreType.ETCD,
            leads=own == leader,
            members=tuple(
                Member(
                    each.get("name", ""),
                    ",".join(each["peerURLs"]),
                    "learner" if each.get("isLearner") else "voter",
                    each["ID"] == leader,
                    not found.get("errors") if each["ID"] == own else True if each["ID"] == leader else None,
                )
                for each in await members(self._client)
            ),
            size=int(found["dbSize"]),
            revision=int(found["header"]["revision"]),
        )

    async def snapshot(self, path: Path) -> None:
        """Save a snapshot, which has its own check sum at its end."""
        await run.run_async([*_etcdctl(), "snapshot", "save", path], timeout=SECONDS)

    async def revision(self, snapshot: Path) -> int:
        """Ask etcd's tool, which looks through the database; the check sum is compared by who restores it."""
        command = ["etcdutl", "--write-out=json", "snapshot", "status", str(snapshot)]
        answer = await run.run_async(command, timeout=SECONDS)
        return int(json.loads(answer.stdout)["revision"])

    async def build(self, node: Node, snapshot: Path, folder: Path) -> None:
        """Make a member that is alone, at the loopback address; it is told of another one when it gets partners."""
        url = peer_url(LOOPBACK)
        command = [
            *("etcdutl", "snapshot", "restore", str(snapshot)),
            f"--data-dir={folder}",
            f"--name={node.name}",
            f"--initial-cluster={node.name}={url}",
            f"--initial-advertise-peer-urls={url}",
            f"--bump-revision={REVISION_LEAP}",
            "--mark-compacted",
        ]
        await run.run_async(command, timeout=SECONDS)

    async def salvage(self, folder: Path, snapshot: Path) -> Salvaged:
        """Have the whole log of the copy applied and saved by a command that upstream's etcdutl does not have."""
        command = ["etcdutl", "salvage", f"--data-dir={folder}", str(snapshot)]
        return salvage.read((await run.run_async(command, timeout=SECONDS)).stdout, _host)

    async def defragment(self) -> None:
        """Write the database anew; the member answers nobody until that is done."""
        await run.run_async([*_etcdctl(), "defrag"], timeout=SECONDS)


def _etcdctl() -> list[str]:
    """Return how etcd's client is called; what it has to say fits into the time given for all of the data."""
    return [
        "etcdctl",
        f"--endpoints={URL}",
        f"--cacert={PKI}/etcd/ca.crt",
        f"--cert={PKI}/apiserver-etcd-client.crt",
        f"--key={PKI}/apiserver-etcd-client.key",
        f"--command-timeout={SECONDS:.0f}s",
    ]
