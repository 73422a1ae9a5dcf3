# SPDX-License-Identifier: Apache-2.0
"""dqlite: SQLite replicated by Raft, behind the etcd API on a unix socket of this machine."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from pathlib import Path
from typing import Any

from firstboot import run
from firstboot.codes import Code
from firstboot.config import DatastoreType
from firstboot.datastores import Endpoint, salvage
from firstboot.datastores.store import DatastoreStatus, Member, Salvaged, Store
from firstboot.failure import BasaltError, Failure, Refused
from firstboot.paths import DQLITE_SOCKET, PKI
from firstboot.probes import SocketProbe
from firstboot.services.model import Node, Service
from firstboot.values import ZONE_LABEL, split_port

SECONDS = 10.0
"""How long k8s-dqlite may take to tell its status."""
REMOVE_SECONDS = 45.0
"""How long k8s-dqlite may take to remove a member: another one may have to take over first."""

SNAPSHOT_SECONDS, BUILD_SECONDS = 600.0, 3600.0
"""How long it may take to write all data to a file, and to make a datastore of one: emulated machines are slow."""

FOLDER = Path("/var/lib/k8s-dqlite")

ENDPOINT = Endpoint({"etcd-servers": f"unix://{DQLITE_SOCKET}"})


PORT = 9000


def service(node: Node) -> Service:
    """Return the datastore: alone it listens to this machine only, with partners to who has a certificate."""
    host = node.ip if node.control_planes else "127.0.0.1"
    return Service(
        unit="k8s-dqlite",
        probe=SocketProbe(DQLITE_SOCKET),
        arguments={
            "storage-dir": str(FOLDER),
            "listen": f"unix://{DQLITE_SOCKET}",
            "address": peer(host),
            **(_partners(node) if node.control_planes else {}),
        },
    )


async def members() -> list[dict[str, Any]]:
    """Return the members as the leader knows them: `address`, `role` (voter, stand-by, spare). Raises BasaltError."""
    found: list[dict[str, Any]] = (await _status())["members"]
    return found


class Dqlite(Store):
    """The node's member, by the commands of k8s-dqlite."""

    unit = "k8s-dqlite"
    folder = FOLDER
    port = PORT

    async def status(self) -> DatastoreStatus:
        """Ask over the control socket; members are known by their addresses, and how others are by nobody."""
        found = await _status()
        return DatastoreStatus(
            DatastoreType.DQLITE,
            leads=found["leader"] == found["address"],
            members=tuple(
                Member(
                    "",
                    each["address"],
                    each["role"],
                    each["leader"],
                    True if each["address"] == found["address"] or each["leader"] else None,
                )
                for each in found["members"]
            ),
            size=found["size"],
            revision=found["revision"],
        )

    async def snapshot(self, path: Path) -> None:
        """Write one SQLite file."""
        await run.run_async(["k8s-dqlite", "dump", path], timeout=SNAPSHOT_SECONDS)

    async def revision(self, snapshot: Path) -> int:
        """Look into the SQLite file; what it says must fit together."""
        return await asyncio.to_thread(_revision, snapshot)

    async def build(self, node: Node, snapshot: Path, folder: Path) -> None:
        """Copy the file into a new member at the loopback address; it moves when it gets partners."""
        command = ["k8s-dqlite", "restore", f"--storage-dir={folder}", str(snapshot)]
        await run.run_async(command, timeout=BUILD_SECONDS)

    async def salvage(self, folder: Path, snapshot: Path) -> Salvaged:
        """Have the copy made a cluster of one member, which is dumped."""
        command = ["k8s-dqlite", "salvage", f"--storage-dir={folder}", str(snapshot)]
        return salvage.read((await run.run_async(command, timeout=BUILD_SECONDS)).stdout, _host)

    async def defragment(self) -> None:
        """Refuse: SQLite's VACUUM makes a new file, and dqlite has none to exchange."""
        found = "dqlite does not give back the space of deleted data; it fills it with what is written next"
        remedy = (
            "Nothing need be done. To make the database small all the same, take a backup and restore it:"
            " that copies what is there and nothing else."
        )
        raise Refused([Failure(Code.NOT_POSSIBLE, "datastore", found, remedy)])


async def _status() -> dict[str, Any]:
    answer = await run.run_async(["k8s-dqlite", "status"], timeout=SECONDS)
    status: dict[str, Any] = json.loads(answer.stdout)
    if not status["healthy"]:
        hint = "It goes on by itself. If most control planes are lost for good: docs/recovery.md."
        raise BasaltError(f"the datastore does not answer: {status['error']}", hint)
    return status


def _revision(snapshot: Path) -> int:
    import sqlite3

    try:
        with closing(sqlite3.connect(f"{snapshot.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
            (revision,) = database.execute("SELECT MAX(id) FROM kine").fetchone()
    except sqlite3.Error as error:
        raise BasaltError(f"the snapshot of the datastore cannot be read: {error}") from error
    if verdict != "ok" or revision is None:
        raise BasaltError(f"the snapshot of the datastore is damaged: {verdict}")
    return int(revision)


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


def _host(address: str) -> str:
    return split_port(address)[0]


def _partners(node: Node) -> dict[str, str]:
    joined = {"cluster": ",".join(node.peers)} if node.peers else {}
    zone = node.config.node.labels.get(ZONE_LABEL)
    return {
        "tls-cert": f"{PKI}/dqlite/member.crt",
        "tls-key": f"{PKI}/dqlite/member.key",
        "tls-ca": f"{PKI}/dqlite/ca.crt",
        **({"failure-domain": zone} if zone else {}),
        **joined,
    }
