# SPDX-License-Identifier: Apache-2.0
"""What keeps the cluster's objects, whose it is, and how it is backed up."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from firstboot.config.document import Document


class DatastoreType(StrEnum):
    """What keeps the cluster's objects."""

    DQLITE = "dqlite"
    ETCD = "etcd"
    EXTERNAL = "external"

    @property
    def is_ours(self) -> bool:
        """Whether it runs on the cluster's own control planes, with an authority of the cluster's."""
        return self is not DatastoreType.EXTERNAL


@dataclass(frozen=True)
class Backup:
    """Backups that control planes take by themselves.

    recipient: public key, PEM; None means that none are taken
    interval:  hours or days, e.g. ``24h``
    keep:      how many stay on a control plane
    """

    recipient: str | None = None
    interval: str = "24h"
    keep: int = 7

    @classmethod
    def from_dict(cls, data: Document) -> Backup:
        """Read ``datastore.backup``."""
        return cls(
            recipient=data.get("recipient"),
            interval=data.get("interval", cls.interval),
            keep=data.get("keep", cls.keep),
        )

    @property
    def seconds(self) -> int:
        """The interval."""
        return int(self.interval[:-1]) * {"h": 3600, "d": 86400}[self.interval[-1]]


@dataclass(frozen=True)
class External:
    """An etcd that somebody else runs, and this cluster's way in.

    endpoints:              ``https://host:port``; none on a node that has no such datastore
    ca, client_certificate: PEM; whom etcd's certificates have to be signed by, and who the API server is
    client_key:             PEM; never show it
    prefix:                 of all the cluster's keys in it
    """

    endpoints: tuple[str, ...] = ()
    ca: str | None = None
    client_certificate: str | None = None
    client_key: str | None = field(default=None, repr=False)
    prefix: str = "/registry"

    @classmethod
    def from_dict(cls, data: Document) -> External:
        """Read ``datastore.external``."""
        return cls(
            endpoints=tuple(data.get("endpoints", ())),
            ca=data.get("ca"),
            client_certificate=data.get("client-certificate"),
            client_key=data.get("client-key"),
            prefix=data.get("prefix", cls.prefix),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as it stands in a document, for another control plane; it holds the key."""
        return {
            "endpoints": list(self.endpoints),
            "ca": self.ca,
            "client-certificate": self.client_certificate,
            "client-key": self.client_key,
            "prefix": self.prefix,
        }


@dataclass(frozen=True)
class Datastore:
    """Where the API server keeps its objects."""

    type: DatastoreType = DatastoreType.DQLITE
    backup: Backup = field(default_factory=Backup)
    external: External = field(default_factory=External)

    @classmethod
    def from_dict(cls, data: Document) -> Datastore:
        """Read ``datastore``."""
        return cls(
            type=DatastoreType(data.get("type", cls.type)),
            backup=Backup.from_dict(data.get("backup", {})),
            external=External.from_dict(data.get("external", {})),
        )
