# SPDX-License-Identifier: Apache-2.0
"""Whether the datastore can be moved as the cluster stands; nothing happens here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from firstboot.backup.building import refuse_mount
from firstboot.backup.places import Places, sealed
from firstboot.cluster.quorum import Member, member_on
from firstboot.codes import Code
from firstboot.config import DatastoreType
from firstboot.failure import Failure, Refused
from firstboot.moving.records import Moved
from firstboot.services.model import Node
from firstboot.steps.moving import other

PATH = "datastore"


def refused(found: str, remedy: str) -> Refused:
    """Return why the datastore is not moved."""
    return Refused([Failure(Code.MOVE_REFUSED, PATH, found, remedy)])


def refuse_same(origin: DatastoreType, to: DatastoreType) -> None:
    """Raise Refused for a datastore that is what it shall become."""
    if origin is to:
        raise refused(f"the datastore is {to} already", "Nothing need be done.")


def refuse_place(places: Places, to: DatastoreType) -> None:
    """Raise Refused where old data would have to go, and BasaltError where a folder cannot be renamed."""
    moved, origin = Moved.load(places.moved), places.folder(other(to))
    if moved is not None and moved.kept:
        found = f"the data of before the last move, of {moved.since}, is still kept"
        raise refused(
            found, "If nobody needs it any more: `basalt datastore move --forget` on each control plane."
        )
    target = places.folder(to)
    for folder in (target, sealed(origin)):
        if folder.is_dir() and any(folder.iterdir()):
            remedy = "Find out whose it is, and move it elsewhere or remove it."
            raise refused(f"{folder} has something in it already", remedy)
    for folder in (origin, target):
        refuse_mount(folder)


def refuse_members(node: Node, known: Iterable[str], members: Sequence[Member]) -> None:
    """Raise Refused where control planes are missing, or their members do not work.

    known: addresses of the control planes that were let into the cluster
    """
    hosts = set(node.control_planes or (node.ip,))
    if set(known) != hosts:
        others = ", ".join(sorted(set(known) ^ hosts))
        raise refused(
            f"{others} joins the cluster or leaves it",
            "Wait until it has; of one that is lost, `basalt remove-node NAME --force` takes out what is left.",
        )
    if not node.control_planes:
        return
    there = {member.host for member in members}
    if there != hosts:
        raise refused(
            f"of the control planes {', '.join(sorted(hosts))} {', '.join(sorted(there)) or 'none'} are members",
            "Wait until all have joined the datastore, or take out what is left of lost ones.",
        )
    if down := [member.host for member in members if not member.works]:
        remedy = (
            "All control planes have to take part: bring it back, or take it out with `basalt remove-node`."
        )
        raise refused(f"the member on {', '.join(down)} does not answer", remedy)
    own = member_on(members, node.ip)
    if own is None or not own.votes:
        voting = ", ".join(member.host for member in members if member.votes)
        raise refused("this member has no vote, and so may lack data", f"Ask one that votes: {voting}.")
