# SPDX-License-Identifier: Apache-2.0
"""What can be asked of a datastore that runs, and done with its data while it does not; the same for each type."""

from __future__ import annotations

from abc import ABC, abstractmethod
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
    """

    name: str
    address: str
    role: str
    leader: bool
    healthy: bool | None
    version: str = ""


@dataclass(frozen=True)
class DatastoreStatus:
    """How a datastore stands.

    leads:    whether this node's member is the leader
    size:     bytes of the database
    revision: newest
    """

    type: DatastoreType
    leads: bool
    members: tuple[Member, ...]
    size: int
    revision: int

    def to_dict(self) -> dict[str, Any]:
        """Return the status as the API shows it."""
        return asdict(self)


class Store(ABC):
    """The node's member, or its way to the members of somebody else. Every method raises BasaltError.

    unit:   its service
    folder: where its data is
    """

    unit: str
    folder: Path

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
