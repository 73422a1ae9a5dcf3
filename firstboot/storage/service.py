# SPDX-License-Identifier: Apache-2.0
"""local-storage.service: follows the cluster's claims and volumes, and does what they mean for this node."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from firstboot import files, systemd
from firstboot.kube import Client, KubeError
from firstboot.log import setup
from firstboot.mirror import Mirror
from firstboot.storage import DETAIL, LACKS
from firstboot.storage.decide import (
    Action,
    Drop,
    Grow,
    LetGo,
    Limit,
    Provision,
    Reclaim,
    Refuse,
    Remove,
    Seen,
    decide,
    turned_away,
    unclaimed,
    waiting,
)
from firstboot.storage.objects import Claim, Class, Volume
from firstboot.storage.provisioner import Provisioner
from firstboot.storage.quantity import show
from firstboot.storage.quota import ProjectQuotas
from firstboot.storage.volumes import Folder, Stage, Volumes

IDENTITY = "local-storage"
AGAIN = 60.0
"""Seconds after which all is looked at again: nobody tells when a disk has room again or is mounted."""
AFTER_FAILURE = 5.0
"""Seconds before what failed is tried again."""
AGAIN_SOON = "has changed meanwhile"
"""Of an object that somebody else wrote at the same time: it is seen in a moment, and decided anew."""

log = logging.getLogger(__name__)


@dataclass
class Follower:
    """The service of one node.

    lacks, detail: files for the agent
    """

    client: Client
    node: str
    volumes: Volumes
    lacks: Path = LACKS
    detail: Path = DETAIL
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _removals: set[str] = field(default_factory=set)
    _failures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tasks = asyncio.TaskGroup()
        changed = self._changed.set
        self.provisioner = Provisioner(self.client, self.node, self.volumes)
        self.claims = Mirror(self.client, "/api/v1/persistentvolumeclaims", Claim.read, changed)
        self.objects = Mirror(self.client, "/api/v1/persistentvolumes", Volume.read, changed)
        self.classes = Mirror(self.client, "/apis/storage.k8s.io/v1/storageclasses", Class.read, changed)

    async def run(self) -> None:
        """Follow for ever."""
        async with self._tasks as tasks:
            for each in (self.claims, self.objects, self.classes):
                tasks.create_task(each.follow())
            while True:
                self._changed.clear()
                failed = await self.look()
                systemd.notify("READY=1")
                with suppress(TimeoutError):
                    async with asyncio.timeout(AFTER_FAILURE if failed else AGAIN):
                        await self._changed.wait()

    async def look(self) -> bool:
        """Do what has to be done now, and tell the agent; whether any of it failed."""
        problem = self.volumes.problem()
        if problem is None and self._synced:
            return await self._act()
        failed = self._synced and await self._turn_away(problem or "")
        self._tell((problem,) if problem else (), "")
        return failed

    async def _turn_away(self, problem: str) -> bool:
        """Give claims back to the scheduler that wait for what cannot be; whether that failed."""
        claims = waiting(self.node, self.claims.objects.values(), self.classes.objects)
        return any([await self._apply(each) for each in turned_away(self.node, claims, problem)])

    async def _act(self) -> bool:
        seen = await asyncio.to_thread(self._seen)
        verdict = decide(seen)
        self.provisioner.forget(seen.claims)
        failures = dict(self._failures)
        for action in verdict.actions:
            if isinstance(action, Reclaim | Remove):
                self._remove(action)
            elif failure := await self._apply(action):
                failures[action_name(action)] = failure
        if verdict.actions:
            seen = await asyncio.to_thread(self._seen)
        told = (text for text in failures.values() if text != AGAIN_SOON)
        self._tell((*told, *verdict.lacks), _detail(seen))
        return bool(failures)

    async def _apply(self, action: Action) -> str | None:
        """Do something; return None, or why it was not done."""
        try:
            await self.provisioner.apply(action)
        except KubeError as error:
            if error.status == HTTPStatus.CONFLICT:
                return AGAIN_SOON
            log.warning("%s", error)
            return str(error)
        except OSError as error:
            text = f"{error.filename or self.volumes.place}: {error.strerror}"
            log.warning("%s", text)
            return text
        return None

    def _remove(self, action: Reclaim | Remove) -> None:
        """Begin a removal, which may take as long as there is data, and hold up nobody."""
        name = action_name(action)
        if name in self._removals:
            return

        self._removals.add(name)
        self._tasks.create_task(self._removal(name, action))

    async def _removal(self, name: str, action: Reclaim | Remove) -> None:
        failure = await self._apply(action)
        self._failures.pop(name, None)
        if failure:
            self._failures[name] = failure
            self._changed.set()
            await asyncio.sleep(AFTER_FAILURE)
        self._removals.discard(name)
        self._changed.set()

    def _seen(self) -> Seen:
        folders = self.volumes.folders()
        return Seen(
            node=self.node,
            place=self.volumes.place,
            room=self.volumes.room(folders),
            claims={each.uid: each for each in self.claims.objects.values()},
            volumes=dict(self.objects.objects),
            classes=dict(self.classes.objects),
            folders=tuple(folders),
        )

    @property
    def _synced(self) -> bool:
        return self.claims.synced and self.objects.synced and self.classes.synced

    def _tell(self, lacks: tuple[str, ...], detail: str) -> None:
        away = next(filter(None, (each.reason for each in (self.claims, self.objects, self.classes))), None)
        found = [*lacks, *([away] if away else [])]
        _keep(self.detail, detail)
        _keep(self.lacks, "; ".join(found))


def _keep(path: Path, text: str) -> None:
    """Have a line in a file; a reader finds the old one or the new one."""
    files.write(path, f"{text}\n" if text else "")


def action_name(action: Action) -> str:
    """Return the name of the volume or claim that an action is about."""
    match action:
        case Provision() | Limit() | Remove() | Drop():
            return action.name
        case Reclaim(volume) | LetGo(volume) | Grow(volume):
            return volume.name
        case Refuse(claim):
            return str(claim)


def _detail(seen: Seen) -> str:
    used: list[Folder] = [each for each in seen.folders if each.stage is Stage.USED]
    promised = sum(each.quota.limit for each in used)
    count = "1 volume" if len(used) == 1 else f"{len(used)} volumes"
    told = f"{show(promised)} promised to {count}, {show(seen.room.left)} left in {seen.place}"
    if lost := unclaimed(seen):
        told += f"; no PersistentVolume names {', '.join(lost)}, where there is data"
    return told


def main() -> None:
    """Run the service of the node in NODE_NAME, with volumes in LOCAL_PATH."""
    setup()
    asyncio.run(_main(os.environ["NODE_NAME"], Path(os.environ["LOCAL_PATH"])))


async def _main(node: str, place: Path) -> None:
    async with Client(identity=IDENTITY) as client:
        await Follower(client, node, Volumes(place, ProjectQuotas(place))).run()
