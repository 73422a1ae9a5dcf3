# SPDX-License-Identifier: Apache-2.0
"""The side of a control plane whose datastore another one moves: it rests, and asks what has come of it.

That it rests is on its disk before it says so, so no power cut wakes it. It goes on with its old datastore only when
who makes the move says that nothing has come of it, and with the new one only when he gives it the way in. One who
cannot be reached says nothing: then it waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from firstboot import files
from firstboot.backup.custodian import Custodian
from firstboot.backup.places import Places
from firstboot.cluster.messages import Malformed
from firstboot.config import DatastoreType
from firstboot.failure import BasaltError
from firstboot.moving import judging
from firstboot.moving.course import USERS
from firstboot.moving.messages import (
    DONE,
    MOVE,
    OVER,
    RESTS,
    STOPPING,
    WOULD,
    Outcome,
    Question,
    Rest,
    Resting,
)
from firstboot.moving.mover import Ask
from firstboot.moving.records import Moving
from firstboot.steps.units import busy
from firstboot.systemd import Unit

log = logging.getLogger(__name__)

SOON = 2.0
"""Seconds between two questions."""


@dataclass
class Partaker:
    """One control plane's.

    wake: called when there is something to do
    """

    custodian: Custodian
    wake: Callable[[], None]
    ask: Ask
    clock: Callable[[], float] = time.monotonic
    _rests: bool = False
    _due: float = 0.0
    _task: asyncio.Task[None] | None = None

    @property
    def places(self) -> Places:
        """Where the record is."""
        return self.custodian.places

    async def rest(self, asked: Rest) -> Resting:
        """Have the datastore rest, and say whether it does; see Rest. Raises Refused and BasaltError."""
        known = Moving.load(self.places.moving)
        if known is not None and known.move == asked.move:
            return Resting(RESTS if self._rests else STOPPING)
        to = await self._require(asked)
        if asked.dry:
            return Resting(WOULD)
        self._rests = False
        Moving(asked.move, to, asked.host, asked.since).save(self.places.moving)
        log.warning("the datastore rests: %s moves it to %s", asked.host, to)
        self.wake()
        return Resting(STOPPING)

    def look(self, units: Mapping[str, Unit]) -> None:
        """Note whether all rests; units: as a round has found them in which nothing is started any more."""
        self._rests = next(busy(USERS, units), None) is None

    def follow(self) -> None:
        """Ask what has come of the move, if there is one and it is time to; call it again and again."""
        record = Moving.load(self.places.moving)
        if record is None or record.founds or record.decided:
            return
        if self.clock() < self._due or (self._task is not None and not self._task.done()):
            return
        self._due = self.clock() + SOON
        self._task = asyncio.create_task(self._asked(record))

    async def _require(self, asked: Rest) -> DatastoreType:
        """Return the new datastore. Raises Refused where this control plane cannot take part."""
        try:
            to = DatastoreType(asked.to)
        except ValueError:
            raise Malformed("there is no such datastore") from None
        async with self.custodian.undisturbed() as source:
            judging.refuse_same(source.node.config.datastore.type, to)
            judging.refuse_place(self.places, to)
            if not to.is_ours or asked.host not in source.node.control_planes:
                found = f"{asked.host} is no control plane that this one knows"
                raise judging.refused(found, "Wait until all control planes know each other.")
        return to

    async def _asked(self, record: Moving) -> None:
        source = self.custodian.source()
        question = Question(source.node.name, record.move)
        try:
            told = await asyncio.to_thread(self.ask, source.certificates, record.host, MOVE, question)
            outcome = Outcome.from_dict(told)
        except (BasaltError, OSError) as error:
            log.debug("%s does not say what has come of the move: %s", record.host, error)
            return
        # It may have been recovered meanwhile.
        if Moving.load(self.places.moving) != record:
            return
        if outcome.state == OVER:
            log.warning("nothing has come of the move: the datastore goes on as it was")
            files.remove(self.places.moving)
        elif outcome.state == DONE and {"key", "certificate"} <= set(outcome.pki):
            log.warning("the datastore is %s now", record.to)
            replace(record, pki=dict(outcome.pki), peers=tuple(outcome.peers)).save(self.places.moving)
        self.wake()
