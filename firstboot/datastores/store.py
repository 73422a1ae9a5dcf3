# SPDX-License-Identifier: Apache-2.0
"""What can be asked of a datastore that runs, and done with its data while it does not; the same for each type."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from firstboot.config import Datastore, DatastoreType
from firstboot.kube import Client
from firstboot.services.model import Node


@dataclass(frozen=True)
class Member:
    """One member of the datastore.

    name:    of its node; empty where the datastore does not know it
    address: by which other members reach it
    role:    voter, stand-by, spare, learner, or unknown of one that does not answer
    healthy: None where this node cannot know
    version: of the program where that need not be the image's, else empty
    zone:    of its machine; empty for none, and where nobody has looked
    """

    name: str
    address: str
    role: str
    leader: bool
    healthy: bool | None
    version: str = ""
    zone: str = ""


@dataclass(frozen=True)
class DatastoreStatus:
    """How a datastore stands.

    leads:          whether this node's member is the leader
    size:           bytes of the database
    revision:       newest
    critical_zones: those without any of which too few voters would be left
    """

    type: DatastoreType
    leads: bool
    members: tuple[Member, ...]
    size: int
    revision: int
    critical_zones: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the status as the API shows it."""
        return asdict(self)


@dataclass(frozen=True)
class Salvaged:
    """What one member has of a datastore whose others are lost.

    term, index: of the last entry in its log. Of two members, the one with the higher term has all that was
                 acknowledged; of two with the same term, the one with the higher index
    revision:    newest
    as_of:       newest sign of life of a node in it, of which each gives one every ten seconds (RFC 3339, UTC); or None
    roles:       address of a machine -> role of its member, as far as this one knew
    """

    term: int
    index: int
    revision: int
    as_of: str | None
    roles: Mapping[str, str]


class Store(ABC):
    """The node's member, or its way to the members of somebody else. Every method raises BasaltError.

    unit:   its service
    folder: where its data is
    port:   at which members reach each other
    """

    unit: str
    folder: Path
    port: int

    @abstractmethod
    async def status(self) -> DatastoreStatus:
        """Return how it stands."""

    @abstractmethod
    async def snapshot(self, path: Path) -> None:
        """Write all data as of one moment to a file that is not there yet; the datastore goes on working."""

    @abstractmethod
    async def revision(self, snapshot: Path) -> int:
        """Return the newest revision in a snapshot, which is looked at for damage."""

    @abstractmethod
    async def build(self, node: Node, snapshot: Path, folder: Path) -> None:
        """Make a folder with the data of a snapshot, of a member that is alone; revisions go on far ahead."""

    @abstractmethod
    async def salvage(self, folder: Path, snapshot: Path) -> Salvaged:
        """Write to a snapshot all that a copy of a stopped member's folder has, and use up the copy.

        What the member was never told to be acknowledged is taken as well: of some of it nobody was told in time.
        """

    @abstractmethod
    async def defragment(self) -> None:
        """Give back what deleted data takes on the disk. Raises Refused where the datastore does not need it."""


def store(datastore: Datastore, client: Client) -> Store:
    """Return this node's member of a datastore."""
    from firstboot.datastores.dqlite import Dqlite
    from firstboot.datastores.etcd import Etcd
    from firstboot.datastores.external import ExternalEtcd

    match datastore.type:
        case DatastoreType.DQLITE:
            return Dqlite()
        case DatastoreType.ETCD:
            return Etcd(client)
        case DatastoreType.EXTERNAL:
            return ExternalEtcd(datastore.external)
