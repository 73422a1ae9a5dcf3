# SPDX-License-Identifier: Apache-2.0
"""Who the members of the datastore are, who of them works, and how one is taken out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from firstboot.cluster.quorum import Member
from firstboot.config import DatastoreType
from firstboot.datastores import NOT_OURS, dqlite, etcd
from firstboot.failure import BasaltError
from firstboot.kube import SECONDS, Client, Trust
from firstboot.values import split_port


class Voters(Protocol):
    """The datastore, as who takes out one of its members sees it."""

    async def members(self) -> tuple[Member, ...]:
        """Return all members, each asked just now. Raises BasaltError when the datastore does not answer."""
        ...

    async def remove(self, member: Member) -> None:
        """Take a member out. Raises BasaltError."""
        ...


@dataclass(frozen=True)
class DqliteVoters:
    """Any member can get a vote from the leader."""

    async def members(self) -> tuple[Member, ...]:
        """Ask the own member, which asks the others."""
        return tuple(_dqlite_member(each) for each in await dqlite.answers())

    async def remove(self, member: Member) -> None:
        """Take it out; leadership goes to another one first."""
        await dqlite.remove(member.id)


@dataclass(frozen=True)
class EtcdVoters:
    """A learner gets its vote by itself once it has caught up, and not before."""

    client: Client

    async def members(self) -> tuple[Member, ...]:
        """Ask each at the address for its partners: clients are served on the loopback address only."""
        return tuple([await self._member(each) for each in await etcd.members(self.client)])

    async def remove(self, member: Member) -> None:
        """Take it out; etcd elects another leader if it led."""
        await etcd.members(self.client, "remove", ID=member.id)

    async def _member(self, found: dict[str, Any]) -> Member:
        url = found["peerURLs"][0]
        status, _ = await self.client.get_text(f"{url}/version", Trust.ETCD, SECONDS)
        return Member(
            id=found["ID"],
            host=urlsplit(url).hostname or "",
            votes=not found.get("isLearner"),
            works=status == 200,
        )


@dataclass(frozen=True)
class NoVoters:
    """None of the cluster's machines has a vote in an etcd that somebody else runs, so each of them may leave."""

    async def members(self) -> tuple[Member, ...]:
        """Return none."""
        return ()

    async def remove(self, member: Member) -> None:
        """Refuse: a member of that etcd is not the cluster's to take out."""
        raise BasaltError(f"{NOT_OURS}: {member.id} stays")


def voters(datastore: DatastoreType, client: Client) -> Voters:
    """Return the members of a datastore."""
    match datastore:
        case DatastoreType.DQLITE:
            return DqliteVoters()
        case DatastoreType.ETCD:
            return EtcdVoters(client)
        case DatastoreType.EXTERNAL:
            return NoVoters()


def _dqlite_member(found: dict[str, Any]) -> Member:
    host, _ = split_port(found["address"])
    return Member(found["address"], host, found["role"] == "voter", found["answers"], heir=True)
