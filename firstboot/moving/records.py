# SPDX-License-Identifier: Apache-2.0
"""What a control plane writes down about a move: that it takes part in one, and what its datastore is since.

The first record is what fences it: while it is there, no datastore and no API server of the node runs as before, over
any restart. Of the control plane that makes the move it is the decision as well, written when all else is on the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from firstboot import files
from firstboot.codes import Code
from firstboot.config import DatastoreType
from firstboot.failure import Failure
from firstboot.pki.ca import Authority
from firstboot.record import Record

MOVING, MOVED, FAILED = "moving.json", "datastore.json", "move-failed.json"
"""Names of the records, beside that of membership."""


@dataclass(frozen=True)
class Moving(Record):
    """A move that this control plane takes part in.

    move:   by what it is known
    to:     type of the new datastore
    host:   address of the control plane that makes it
    since:  when it began (RFC 3339, UTC)
    founds: whether this is the control plane that makes it, and has built the new datastore
    pki:    authority of the new datastore, file name -> PEM; empty while nothing is decided
    peers:  members of the new datastore that this one joins, see Membership
    placed: whether authority and data are where the new datastore looks for them
    failed: why the new datastore did not start, and the old one has its place again; empty otherwise
    """

    move: str
    to: DatastoreType
    host: str
    since: str
    founds: bool = False
    pki: dict[str, str] = field(default_factory=dict, repr=False)
    peers: tuple[str, ...] = ()
    placed: bool = False
    failed: str = ""

    REMEDY: ClassVar[str] = (
        "Ask the control plane that makes the move (`basalt status` there). If its datastore has become the other "
        "one, reset this node and join again; otherwise remove the file."
    )

    @classmethod
    def read(cls, data: Any) -> Self:
        """Return the record of JSON data."""
        return cls(**{**data, "to": DatastoreType(data["to"]), "peers": tuple(data["peers"])})

    @property
    def decided(self) -> bool:
        """Whether the new datastore is the cluster's."""
        return bool(self.pki)


@dataclass(frozen=True)
class Moved(Record):
    """What the node's datastore is since it was moved, whatever its document says.

    type:    of the datastore
    move:    by which it became that
    since:   when that was (RFC 3339, UTC)
    kept:    type of the one before, whose data is still on the disk; empty where it is not
    awaited: addresses of control planes that have not been told yet, on the one that made the move
    """

    type: DatastoreType
    move: str
    since: str
    kept: str = ""
    awaited: tuple[str, ...] = ()

    REMEDY: ClassVar[str] = "Restore it from a backup, or reset the node and join again."

    @classmethod
    def read(cls, data: Any) -> Self:
        """Return the record of JSON data."""
        return cls(**{**data, "type": DatastoreType(data["type"]), "awaited": tuple(data["awaited"])})


@dataclass(frozen=True)
class Failed(Record):
    """A move that was taken back; to: the new datastore, when: it was given up (RFC 3339, UTC), why: one line."""

    to: str
    when: str
    why: str

    REMEDY: ClassVar[str] = "Remove the file: it is for people only."

    @property
    def failure(self) -> Failure:
        """What the status says about it."""
        unit = {"dqlite": "k8s-dqlite"}.get(self.to, self.to)
        remedy = f"`basalt logs {unit}` may say why. Try again, or take note of it: `basalt datastore move --forget`."
        found = f"the move to {self.to} was taken back at {self.when}: {self.why}"
        return Failure(Code.MOVE_FAILED, "datastore", found, remedy)


def stored_in(state: Path) -> DatastoreType | None:
    """Return what the node's datastore is by its records, None where it is what the settings say.

    state: the folder of the records. Raises BasaltError when they are damaged.
    """
    moving = Moving.load(state / MOVING)
    if moving is not None and moving.placed:
        return moving.to
    moved = Moved.load(state / MOVED)
    return None if moved is None else moved.type


def failures(state: Path) -> Iterator[Failure]:
    """Yield what is to be told about a move that goes on, or has failed; state: as above."""
    moving, moved = Moving.load(state / MOVING), Moved.load(state / MOVED)
    if moving is not None:
        remedy = "Nothing: it goes on by itself."
        if not (moving.founds or moving.decided):
            remedy = (
                f"Nothing: it goes on by itself when {moving.host} answers. If that one is lost for good: "
                "docs/datastore.md, Moving."
            )
        yield Failure(
            Code.DATASTORE_MOVES, "datastore", f"{moving.host} moves the datastore to {moving.to}", remedy
        )
    if (failed := Failed.load(state / FAILED)) is not None:
        yield failed.failure
    if moving is None and moved is not None and moved.awaited:
        found = f"{', '.join(moved.awaited)} has not joined the datastore that was moved to {moved.type}"
        yield Failure(
            Code.DATASTORE_MOVES, "datastore", found, "Nothing: it goes on by itself when it is up."
        )


def authority_files(authority: Authority, pki: dict[str, str]) -> list[files.File]:
    """Return the files of the new datastore's authority, its key first."""
    return [
        files.File(authority.key, pki["key"].encode(), authority.mode, authority.owner),
        files.File(authority.certificate, pki["certificate"].encode()),
    ]
