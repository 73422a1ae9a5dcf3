# SPDX-License-Identifier: Apache-2.0
"""Does what was decided: each action asks the API anew before it changes what cannot be taken back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from firstboot.events import Teller
from firstboot.kube import Client, KubeError
from firstboot.storage import FINALIZER
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
    goes,
)
from firstboot.storage.objects import SELECTED_NODE, Claim, Volume, node_of, volume_object
from firstboot.storage.quantity import parse, show, write
from firstboot.storage.volumes import PREFIX, Volumes

COMPONENT = "local-storage"
VOLUMES = "/api/v1/persistentvolumes"
RESIZING = ("Resizing", "FileSystemResizePending")

log = logging.getLogger(__name__)


@dataclass
class Provisioner:
    """One node's.

    told: claims that were refused, by uid, with the version of the claim and the text: once is enough
    """

    client: Client
    node: str
    volumes: Volumes
    told: dict[str, tuple[str, str]] = field(default_factory=dict)
    teller: Teller = field(init=False)

    def __post_init__(self) -> None:
        """Tell in the name of the node."""
        self.teller = Teller(self.client, COMPONENT, self.node)

    async def apply(self, action: Action) -> None:
        """Do it. Raises KubeError and OSError; it may then be done in part, and is to be decided anew."""
        match action:
            case Provision():
                await self._provision(action)
            case Refuse():
                await self._refuse(action)
            case Grow():
                await self._grow(action)
            case Limit(name, size):
                await asyncio.to_thread(self.volumes.limit, name, size)
            case Reclaim(volume):
                await self._reclaim(volume.name)
            case LetGo(volume):
                await self._let_go(volume.name)
            case Remove(name):
                if not await self._is_named(name):
                    await asyncio.to_thread(self.volumes.remove, name)
            case Drop():
                await self._drop(action)

    async def _object(self, name: str) -> Any:
        """Return a PersistentVolume as it is now, None for one that is not."""
        return await self.client.get(f"{VOLUMES}/{name}")

    async def _is_named(self, name: str) -> bool:
        """Whether there is a PersistentVolume for a folder of this node."""
        found = await self._object(name)
        return found is not None and node_of(found) in (self.node, None)

    async def _claim(self, claim: Claim) -> Any:
        """Return a claim as it is now, None where it is another or none any more."""
        found = await self.client.get(claim.path)
        return found if found is not None and found["metadata"]["uid"] == claim.uid else None

    def _waits(self, claim: Any) -> bool:
        """Whether a claim waits for this node."""
        chosen = claim["metadata"].get("annotations", {}).get(SELECTED_NODE)
        return chosen == self.node and not claim["spec"].get("volumeName")

    async def _provision(self, action: Provision) -> None:
        claim = await self._claim(action.claim)
        if claim is None or not self._waits(claim):
            return
        await asyncio.to_thread(self.volumes.make, action.name, action.size)
        path = self.volumes.path(action.name)
        wanted = volume_object(action.name, claim, path, self.node, action.size, action.policy)
        try:
            await self.client.send("POST", VOLUMES, wanted)
        except KubeError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            return
        log.info("made %s, %s, for the claim %s", path, show(action.size), action.claim)
        text = f"made PersistentVolume {action.name} with {show(action.size)} on node {self.node}"
        await self.teller.tell(action.claim.reference, "Normal", "ProvisioningSucceeded", text)

    async def _refuse(self, action: Refuse) -> None:
        claim = action.claim
        said = (claim.version, action.text)
        if self.told.get(claim.uid) == said:
            return
        log.info("claim %s: %s", claim, action.text)
        await self.teller.tell(claim.reference, "Warning", action.reason, action.text)
        if action.elsewhere and (found := await self._claim(claim)) is not None:
            # The scheduler keeps to the node that it has chosen until somebody takes that back.
            if self._waits(found):
                del found["metadata"]["annotations"][SELECTED_NODE]
                await self.client.send("PUT", claim.path, found)
        self.told[claim.uid] = said

    def forget(self, claims: Mapping[str, Claim]) -> None:
        """Drop what was told about claims that are gone."""
        self.told = {uid: said for uid, said in self.told.items() if uid in claims}

    async def _grow(self, action: Grow) -> None:
        """The limit first: nobody is promised what is not there."""
        found = await self._object(action.volume.name)
        if found is None:
            return
        await asyncio.to_thread(self.volumes.limit, action.volume.name, action.size)
        if parse(found["spec"]["capacity"]["storage"]) != action.size:
            found["spec"]["capacity"]["storage"] = write(action.size)
            await self.client.send("PUT", f"{VOLUMES}/{action.volume.name}", found)
        claim = await self._claim(action.claim)
        if claim is None or parse(claim["status"]["capacity"]["storage"]) == action.size:
            return
        status = claim["status"]
        status["capacity"]["storage"] = write(action.size)
        status["conditions"] = [
            each for each in status.get("conditions", ()) if each.get("type") not in RESIZING
        ]
        await self.client.send("PUT", f"{action.claim.path}/status", claim)
        log.info("claim %s has %s now", action.claim, show(action.size))
        text = f"the volume has {show(action.size)} now"
        await self.teller.tell(action.claim.reference, "Normal", "VolumeResizeSuccessful", text)

    async def _reclaim(self, name: str) -> None:
        found = await self._object(name)
        volume = None if found is None else Volume.read(found)
        if volume is None or not goes(volume):
            return
        try:
            await asyncio.to_thread(self.volumes.remove, name)
        except OSError as error:
            text = f"the data in {self.volumes.place} cannot be removed: {error.strerror}"
            reference = {"apiVersion": "v1", "kind": "PersistentVolume", "name": name}
            await self.teller.tell(
                {**reference, "uid": found["metadata"]["uid"]}, "Warning", "VolumeFailedDelete", text
            )
            raise
        await self._delete(name)
        await self._let_go(name)
        log.info("removed %s and its data", name)

    async def _delete(self, name: str) -> None:
        try:
            await self.client.send("DELETE", f"{VOLUMES}/{name}")
        except KubeError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    async def _let_go(self, name: str) -> None:
        """Take our finalizer from a PersistentVolume that is deleted already."""
        found = await self._object(name)
        if found is None or "deletionTimestamp" not in found["metadata"]:
            return
        kept = [each for each in found["metadata"].get("finalizers", ()) if each != FINALIZER]
        if kept == found["metadata"].get("finalizers"):
            return
        found["metadata"]["finalizers"] = kept
        await self.client.send("PUT", f"{VOLUMES}/{name}", found)

    async def _drop(self, action: Drop) -> None:
        if await self._is_named(action.name):
            return
        if await asyncio.to_thread(self.volumes.drop, action.name, action.stage):
            log.info("removed the empty folder of %s, which nobody claims", action.name.removeprefix(PREFIX))
