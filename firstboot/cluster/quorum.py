# SPDX-License-Identifier: Apache-2.0
"""Whether a datastore can do without one of its members; nothing is asked here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """A member of the datastore.

    id:    what the datastore calls it
    host:  address of its machine
    votes: whether it counts in a majority
    works: whether it answers
    heir:  whether it can be given a vote at once
    """

    id: str
    host: str
    votes: bool
    works: bool
    heir: bool = False


def member_on(members: Iterable[Member], host: str) -> Member | None:
    """Return the member on a host, None where there is none."""
    return next((member for member in members if member.host == host), None)


def refusal(members: Sequence[Member], host: str) -> str | None:
    """Return why the member on a host cannot be taken out; None where it can, or where there is none.

    A majority of the voters has to work now, or nobody could decide that it leaves; and a majority of those that
    remain has to work then, or nothing could be written any more.
    """
    leaves = member_on(members, host)
    if leaves is None:
        return None
    voters = [member for member in members if member.votes]
    if lacking := _lacking(voters, f"the datastore's {_counted(voters)}"):
        return lacking
    if not leaves.votes:
        return None
    remaining = [member for member in voters if member is not leaves]
    if remaining:
        return _lacking(
            remaining, f"the {_counted(remaining)} that remain{'s' if len(remaining) == 1 else ''}"
        )
    if any(member.works and member.heir for member in members if member is not leaves):
        return None
    return "it is the only voter, and no other member works that could get its vote"


def _lacking(voters: Sequence[Member], which: str) -> str | None:
    """Return that too few voters work, None where a majority does; which: the voters with their number."""
    working, needed = sum(member.works for member in voters), len(voters) // 2 + 1
    if working >= needed:
        return None
    if len(voters) == 1:
        return f"{which} does not work"
    count = {0: "none works", 1: "only 1 works"}.get(working, f"only {working} work")
    return f"of {which} {count}; {needed} are needed"


def _counted(voters: Sequence[Member]) -> str:
    return "only voter" if len(voters) == 1 else f"{len(voters)} voters"
