# SPDX-License-Identifier: Apache-2.0
"""What control planes say to each other while their datastore is moved; see firstboot.cluster.messages.

POST /v1/move/rest   Rest -> Resting      who makes the move has the others stop, and asks again until they have
POST /v1/move        Question -> Outcome  they ask what has come of it, again and again
"""

from __future__ import annotations

from dataclasses import dataclass, field

from firstboot.cluster.messages import Message

REST, MOVE = "/v1/move/rest", "/v1/move"

STOPPING, RESTS, WOULD = "stopping", "rests", "would"
"""States of who was told to rest; the last one of who was only asked whether he could."""
GOES_ON, OVER, DONE = "goes-on", "over", "done"
"""States of a move: nobody knows yet, or the member has to wait; nothing came of it; the datastore is the new one."""


@dataclass(frozen=True)
class Rest(Message):
    """A control plane's datastore shall rest.

    move:  by what the move is known
    to:    type of the new datastore
    host:  address of who makes it
    since: when it began (RFC 3339, UTC)
    dry:   only asks whether it could
    """

    move: str
    to: str
    host: str
    since: str
    dry: bool


@dataclass(frozen=True)
class Resting(Message):
    """state: stopping, rests or would."""

    state: str


@dataclass(frozen=True)
class Question(Message):
    """name: of the node that asks; move: by what the move is known."""

    name: str
    move: str


@dataclass(frozen=True)
class Outcome(Message):
    """What has come of a move.

    state: goes-on, over or done
    peers: of one that is done: members of the new datastore, as in Membership
    pki:   its authority, as in Moving
    """

    state: str
    peers: list[str] = field(default_factory=list)
    pki: dict[str, str] = field(default_factory=dict, repr=False)
