# SPDX-License-Identifier: Apache-2.0
"""Backups on a timer: the control plane whose member leads the datastore takes one when the newest is old enough."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from firstboot.backup import kept
from firstboot.backup.custodian import Custodian
from firstboot.backup.locks import Recipient
from firstboot.codes import Code
from firstboot.config import Backup
from firstboot.failure import BasaltError, Failure, Refused

log = logging.getLogger(__name__)

AGAIN = 300.0
"""Seconds until the next attempt after one that failed, and until a member that does not lead looks again."""


@dataclass
class Routine:
    """One control plane's; each backup is taken in a task of its own.

    last:    when the newest was taken (RFC 3339, UTC), None where there is none
    failure: why the last attempt failed
    """

    custodian: Custodian
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    last: str | None = None
    failure: Failure | None = None
    _due: float = 0.0
    _task: asyncio.Task[None] | None = None

    def follow(self, settings: Backup) -> None:
        """Begin a backup if the document wants one and it is time to; call it again and again."""
        found = kept.listed(self.custodian.places.kept)
        self.last = found[0].created if found else None
        if settings.recipient is None:
            self.failure = None
            return
        if self._task is not None and not self._task.done():
            return
        # One from the future says that the clock was set back, and nothing about the time since.
        past = [each.when for each in found if each.when <= self.wall()]
        if self.clock() >= self._due and not (past and self.wall() - past[0] < settings.seconds):
            self._due = self.clock() + AGAIN
            self._task = asyncio.create_task(self._take(settings, settings.recipient))

    async def _take(self, settings: Backup, recipient: str) -> None:
        try:
            if (await self.custodian.status()).leads:
                await self._keep(settings, recipient)
            self.failure = None
        except Refused as error:
            self._failed(error.failures[0].found, error.failures[0].remedy)
        except BasaltError as error:
            self._failed(str(error), error.hint)
        except OSError as error:
            self._failed(str(error), "")

    def _failed(self, found: str, remedy: str) -> None:
        log.warning("no backup was taken: %s", found)
        again = remedy or "It is tried again in some minutes."
        self.failure = Failure(Code.BACKUP_FAILED, "basalt.datastore.backup", found, again)

    async def _keep(self, settings: Backup, recipient: str) -> None:
        sealer = await asyncio.to_thread(Recipient.of, recipient)
        async with self.custodian.backup(sealer) as made:
            name = kept.name_of(made.header.cluster, made.header.created)
            await kept.keep(made.pieces(), self.custodian.places.kept, name, settings.keep)
        log.info("took the backup %s", name)
