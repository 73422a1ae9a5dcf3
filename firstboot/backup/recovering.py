# SPDX-License-Identifier: Apache-2.0
"""A control plane that has lost the others: what its own data is, who counts as lost, and whether it may go on alone.

A recovery is a restore of what is salvaged of the node's own datastore. Its authorities stay, but for the datastore's,
whose key the lost members have: it gets a successor, so that none of them can talk to this member again.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from firstboot.backup.archive import SNAPSHOT, require_room
from firstboot.backup.making import Source
from firstboot.codes import Code
from firstboot.datastores.store import Salvaged, Store
from firstboot.failure import BasaltError, Failure, Refused
from firstboot.pki import ca, handover

PROBE_SECONDS = 3.0
"""How long a machine may take to answer a connection; one that is off does not answer at all."""
VOTER, SPARE = "voter", "spare"
COPIES = 4
"""Of the data there will be the copy, the snapshot, the new datastore and its log, beside what is there."""


@dataclass(frozen=True)
class Other:
    """A member that does not take part in the recovered cluster.

    host:    address of its machine
    answers: whether something listens there where members reach each other: it is up, and given up all the same
    """

    host: str
    role: str
    answers: bool


@dataclass(frozen=True)
class Survey:
    """What a recovery would keep and give up.

    host, role: the node's own member
    term, index, revision, as_of: of its data, see Salvaged
    others: members that would be given up
    """

    host: str
    role: str
    term: int
    index: int
    revision: int
    as_of: str | None
    others: tuple[Other, ...]

    @classmethod
    def of(cls, source: Source, salvaged: Salvaged, answering: Iterable[str]) -> Survey:
        """Put together what the member knew, and the node knows, of members; one of unknown role counts as a voter."""
        own, there = source.node.ip, frozenset(answering)
        others = tuple(
            Other(host, salvaged.roles.get(host, VOTER), host in there) for host in partners(source)
        )
        return cls(
            own,
            salvaged.roles.get(own, VOTER),
            salvaged.term,
            salvaged.index,
            salvaged.revision,
            salvaged.as_of,
            others,
        )

    def require(self) -> None:
        """Raise Refused where a recovery would take from the cluster what it still has."""
        there = [each.host for each in self.others if each.role == VOTER and each.answers]
        votes = len(there) + (self.role == VOTER)
        voters = sum(each.role == VOTER for each in self.others) + (self.role == VOTER)
        if 2 * votes > voters:
            found = f"{', '.join(there)} can be reached: {votes} of {voters} voters are there, which is a majority"
            remedy = (
                "The datastore goes on by itself when they have found each other; their logs say what they lack. "
                "Switch off for good those that you give up."
            )
            raise Refused([Failure(Code.HAS_QUORUM, "datastore", found, remedy)])
        if self.role == SPARE:
            found = "this member is a spare: it gets no data, and what it may have is old"
            remedy = "Recover a member that is voter or stand-by. If none is left, restore a backup."
            raise Refused([Failure(Code.NOT_POSSIBLE, "datastore", found, remedy)])

    def to_dict(self) -> dict[str, Any]:
        """Return the survey as the API shows it."""
        return asdict(self)


def partners(source: Source) -> tuple[str, ...]:
    """Return the addresses of the other control planes, each of which has a member."""
    return tuple(host for host in source.node.control_planes if host != source.node.ip)


async def require_loss(source: Source, patience: float) -> None:
    """Raise Refused for a datastore that works, or has nobody to lose.

    patience: seconds in which it may find a leader: an election is no loss
    """
    if not partners(source):
        found = "the control plane has no partners that could be lost"
        remedy = f"`basalt logs {source.store.unit}` says what is wrong. A datastore that is damaged needs a backup."
        raise Refused([Failure(Code.NOT_POSSIBLE, "datastore", found, remedy)])
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    while True:
        try:
            # etcd answers also while nobody leads.
            works = any(member.leader for member in (await source.store.status()).members)
        except (BasaltError, OSError):
            works = False
        if works:
            found = "the datastore works: a majority of its members is there"
            remedy = "Take lost control planes out with `basalt remove-node NAME --force`."
            raise Refused([Failure(Code.HAS_QUORUM, "datastore", found, remedy)])
        if loop.time() >= end:
            return
        await asyncio.sleep(1.0)


async def salvaged(source: Source, folder: Path) -> tuple[Survey, Path]:
    """Return what there is, and the snapshot of it; see salvaged_of."""
    found, snapshot = await salvaged_of(source.store, folder)
    return Survey.of(source, found, await answering(partners(source), source.store.port)), snapshot


async def salvaged_of(store: Store, folder: Path) -> tuple[Salvaged, Path]:
    """Return what a datastore's member has, and the snapshot of it; it must not run.

    folder: empty; gets a copy of the datastore's data, and the snapshot
    Raises BasaltError. The datastore's own folder is only read.
    """
    copy, snapshot = folder / "copy", folder / SNAPSHOT
    await asyncio.to_thread(_copied, store.folder, copy)
    found = await store.salvage(copy, snapshot)
    await asyncio.to_thread(shutil.rmtree, copy)
    return found, snapshot


def _copied(data: Path, copy: Path) -> None:
    try:
        size = sum(path.lstat().st_size for path in data.rglob("*") if path.is_file())
        require_room(copy.parent, COPIES * size)
        shutil.copytree(data, copy, symlinks=True)
    except (OSError, shutil.Error) as error:
        raise BasaltError(
            f"{data} cannot be copied: {error}", "Look for disk errors: `journalctl -k`."
        ) from error


async def answering(hosts: Iterable[str], port: int) -> frozenset[str]:
    """Return those where something listens."""

    async def asked(host: str) -> str | None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(PROBE_SECONDS):
                _, writer = await asyncio.open_connection(host, port)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            return host
        return None

    return frozenset(filter(None, await asyncio.gather(*map(asked, hosts))))


def authorities(source: Source) -> dict[str, str]:
    """Return the node's authorities and token keys with a successor of the datastore's. Raises BasaltError."""
    given = handover.give(source.certificates)
    authority = source.certificates.authority(f"{source.node.config.datastore.type}/ca")
    key, certificate = ca.successor(authority)
    return {**given, f"{authority.name}.key": key.decode(), f"{authority.name}.crt": certificate.decode()}
