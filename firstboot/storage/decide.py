# SPDX-License-Identifier: Apache-2.0
"""What has to be done for the volumes of a node, from what the API and the disk say; nothing happens here.

Every action may have been done already, or half: a node can lose its power between any two.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from firstboot.storage.objects import Claim, Class, Volume
from firstboot.storage.quantity import show
from firstboot.storage.volumes import PREFIX, Folder, Room, Stage

UNIT = 1024**2
"""Sizes of volumes are a whole number of it."""


@dataclass(frozen=True)
class Seen:
    """What there is: objects of the whole cluster, folders of this node.

    claims: by uid; volumes and classes: by name
    """

    node: str
    place: Path
    room: Room
    claims: Mapping[str, Claim]
    volumes: Mapping[str, Volume]
    classes: Mapping[str, Class]
    folders: tuple[Folder, ...]

    @property
    def own(self) -> Iterable[Volume]:
        """The volumes of this node."""
        return [each for each in self.volumes.values() if each.node == self.node]


@dataclass(frozen=True)
class Provision:
    """Make a folder and its PersistentVolume; both may be there."""

    claim: Claim
    size: int
    policy: str

    @property
    def name(self) -> str:
        """The volume's."""
        return volume_name(self.claim)


@dataclass(frozen=True)
class Refuse:
    """Tell why a claim gets no volume or not a larger one; elsewhere: another node may have what it asks for."""

    claim: Claim
    text: str
    reason: str = "ProvisioningFailed"
    elsewhere: bool = False


@dataclass(frozen=True)
class Grow:
    """Let a volume, its PersistentVolume and its claim have more bytes; any of them may have."""

    volume: Volume
    claim: Claim
    size: int


@dataclass(frozen=True)
class Limit:
    """Put a limit right that is another than the PersistentVolume says."""

    name: str
    size: int


@dataclass(frozen=True)
class Reclaim:
    """Remove data that nobody claims, then its PersistentVolume."""

    volume: Volume


@dataclass(frozen=True)
class LetGo:
    """Let a PersistentVolume go that somebody has deleted; the data stays."""

    volume: Volume


@dataclass(frozen=True)
class Remove:
    """Go on with a removal that has begun."""

    name: str


@dataclass(frozen=True)
class Drop:
    """Remove a folder that nobody claims, if nothing is in it."""

    name: str
    stage: Stage


Action = Provision | Refuse | Grow | Limit | Reclaim | LetGo | Remove | Drop


@dataclass(frozen=True)
class Verdict:
    """What has to be done, in this order, and what only people can put right, one thing a line."""

    actions: tuple[Action, ...]
    lacks: tuple[str, ...]


@dataclass
class _Budget:
    """Bytes that are left while more and more is promised."""

    left: int

    def take(self, size: int) -> bool:
        if size > self.left:
            return False
        self.left -= size
        return True


def volume_name(claim: Claim) -> str:
    """Return the name of a claim's volume."""
    return f"{PREFIX}{claim.uid}"


def decide(seen: Seen) -> Verdict:
    """Return what has to be done."""
    budget = _Budget(seen.room.left)
    actions = [*_kept(seen, budget), *_new(seen, budget), *_released(seen), *_leftovers(seen)]
    return Verdict(tuple(actions), tuple(_lacks(seen)))


def _whole(size: int) -> int:
    return max(1, -(-size // UNIT)) * UNIT


def _limits(seen: Seen) -> Mapping[str, int]:
    """Return the limit of each folder in use, by name."""
    return {each.name: each.quota.limit for each in seen.folders if each.stage is Stage.USED}


def _is_here(seen: Seen, volume: Volume) -> bool:
    """Whether the volume's folder is, or was, in the place that this service looks after."""
    return volume.path == seen.place / volume.name


def goes(volume: Volume) -> bool:
    """Whether nobody claims the volume any more, and nobody is to keep it."""
    free = volume.phase in ("Released", "Failed") or (volume.leaving and volume.phase != "Bound")
    return free and volume.policy == "Delete"


def _released(seen: Seen) -> Iterator[Action]:
    for volume in seen.own:
        if goes(volume) and _is_here(seen, volume):
            yield Reclaim(volume)
        elif volume.leaving and volume.finalized and volume.phase != "Bound":
            yield LetGo(volume)


def _leftovers(seen: Seen) -> Iterator[Action]:
    """What power cuts have left. A folder with data in it is never one: its PersistentVolume may come back."""
    own = {each.name for each in seen.own}
    for folder in seen.folders:
        known = folder.name in own
        claim = seen.claims.get(folder.name.removeprefix(PREFIX))
        claimed = claim is not None and claim.node == seen.node
        if folder.stage is Stage.OLD and not known:
            yield Remove(folder.name)
        elif folder.stage is not Stage.OLD and not known and not claimed and not _holds_data(folder):
            yield Drop(folder.name, folder.stage)


def _holds_data(folder: Folder) -> bool:
    """Whether there is more in its project than the folder itself."""
    return folder.quota.used_files > 1


def unclaimed(seen: Seen) -> list[str]:
    """Return the folders with data that no PersistentVolume names: only people can say whether it is wanted."""
    names = {f"{PREFIX}{uid}" for uid in seen.claims} | {each.name for each in seen.own}
    used = (each for each in seen.folders if each.stage is Stage.USED and each.name not in names)
    return [each.name for each in used if _holds_data(each)]


def _kept(seen: Seen, budget: _Budget) -> Iterator[Action]:
    """Volumes that are claimed: their limits are what their PersistentVolumes say, or their claims ask for now."""
    limits = _limits(seen)
    for volume in seen.own:
        if volume.name not in limits or volume.leaving or goes(volume) or not _is_here(seen, volume):
            continue
        limit, claim = limits[volume.name], seen.claims.get(volume.claim)
        bound = claim is not None and claim.volume == volume.name
        if claim is None or not bound or claim.asked <= volume.capacity:
            if limit != volume.capacity:
                yield Limit(volume.name, volume.capacity)
            # A claim that does not say yet what its volume has is one whose growth was cut off.
            if claim is not None and bound and 0 < claim.capacity < volume.capacity:
                yield Grow(volume, claim, volume.capacity)
            continue
        size = _whole(claim.asked)
        if budget.take(max(0, size - limit)):
            yield Grow(volume, claim, size)
        else:
            more = f"{show(size - limit)} more than the {show(limit)} that are there"
            yield Refuse(claim, _full(seen, budget, more), "VolumeResizeFailed")


def waiting(node: str, claims: Iterable[Claim], classes: Container[str]) -> list[Claim]:
    """Return the claims of these classes whose pods the scheduler has sent to a node, and that have no volume yet."""
    found = (
        each
        for each in claims
        if each.node == node and each.class_name in classes and not each.volume and not each.leaving
    )
    return sorted(found, key=lambda each: (each.namespace, each.name))


def turned_away(node: str, claims: Iterable[Claim], problem: str) -> list[Refuse]:
    """Return what to tell claims that wait for a node which can make no volumes at all."""
    text = f"{node} cannot make volumes: {problem}"
    return [Refuse(each, text, elsewhere=True) for each in claims]


def _new(seen: Seen, budget: _Budget) -> Iterator[Action]:
    """Claims whose pods the scheduler has sent here."""
    limits = _limits(seen)
    for claim in waiting(seen.node, seen.claims.values(), seen.classes):
        if volume_name(claim) in seen.volumes:
            continue
        size = _whole(claim.asked)
        if claim.wish:
            yield Refuse(claim, claim.wish)
        elif budget.take(max(0, size - limits.get(volume_name(claim), 0))):
            yield Provision(claim, size, seen.classes[claim.class_name].policy)
        else:
            yield Refuse(claim, _full(seen, budget, show(size)), elsewhere=True)


def _full(seen: Seen, budget: _Budget, wanted: str) -> str:
    return (
        f"{wanted} cannot be promised by {seen.node}: only {show(budget.left)} of {show(seen.room.size)} are left on "
        f"the disk of {seen.place}. Ask for less, delete claims that nobody needs, or give the machine a larger disk."
    )


def _lacks(seen: Seen) -> Iterator[str]:
    """What only people can put right."""
    here = _limits(seen)
    for volume in seen.own:
        if not _is_here(seen, volume):
            yield f"PersistentVolume {volume.name} is in {volume.path.parent}, which is not `local-path` any more"
        elif volume.name not in here and not goes(volume) and not volume.leaving:
            yield (
                f"{volume.path} of PersistentVolume {volume.name} is gone: mount the disk that it is on, or delete "
                "the PersistentVolume and its claim"
            )
