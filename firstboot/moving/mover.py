# SPDX-License-Identifier: Apache-2.0
"""The side of the control plane that moves the datastore: it fences all of them, copies, builds and decides.

Until it has written the decision down, ending it, in whatever way, leaves the cluster with its old datastore: the
others ask what has come of the move, and go on as before when nobody knows of it. From then on only the new one runs.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from firstboot import files
from firstboot.backup.archive import SNAPSHOT, require_room
from firstboot.backup.building import building
from firstboot.backup.custodian import Custodian
from firstboot.backup.making import Source
from firstboot.backup.places import Places, remove_tree, scratch, sealed
from firstboot.backup.recovering import salvaged_of
from firstboot.cluster import records, versions
from firstboot.cluster.messages import Message
from firstboot.cluster.partners import Partners
from firstboot.cluster.voters import Voters
from firstboot.codes import Code
from firstboot.config import DatastoreType, Role
from firstboot.datastores.store import Store
from firstboot.datastores.transfer import Contents, transfer
from firstboot.failure import BasaltError, DocumentError, Failure, Refused
from firstboot.kube import Client
from firstboot.moving import judging
from firstboot.moving.course import WRITERS
from firstboot.moving.messages import DONE, GOES_ON, OVER, REST, RESTS, Outcome, Question, Rest, Resting
from firstboot.moving.records import Moved, Moving
from firstboot.pki import ca
from firstboot.pki.ca import Authority
from firstboot.pki.catalogue import Catalogue
from firstboot.pki.leaf import CertificateSpec
from firstboot.report.status import now
from firstboot.steps.moving import Describe

log = logging.getLogger(__name__)

OUTAGE = 40.0
"""Seconds for which services stop and start, beside what the copying takes."""
FURTHER = 10.0
"""Seconds more for each other control plane: they rest one after another."""
COPIES = 5
"""Of the data there will be a copy, its snapshot, that in the other form, the new datastore and its log."""
PATIENCE = 120.0
"""Seconds in which another control plane's datastore has to rest, and in which a new leader has to be found."""
AGAIN = 1.0
"""Seconds between two questions."""
OBJECT = "basalt-datastore"
"""ConfigMap of the newest move; writing it shows that the datastore can still write."""

Ask = Callable[[Catalogue, str, str, Message], Any]
"""Asks the control plane on a host; see firstboot.cluster.joining.ask."""
T = TypeVar("T")


@dataclass(frozen=True)
class Forecast:
    """What a move is, before or after it was decided.

    origin, to:     types of the datastore
    size:           bytes of the database now
    keys, revision: what is in it
    seconds:        without writes, as far as can be told
    founds:         address of the control plane that has the new datastore first
    others:         addresses of those that join it
    """

    origin: DatastoreType
    to: DatastoreType
    size: int
    keys: int
    revision: int
    seconds: int
    founds: str
    others: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        return asdict(self)


@dataclass
class Mover:
    """One control plane's.

    serves:   whether the node is ready and its datastore and API server work now
    stores:   the node's member of a datastore
    voters:   members of a datastore
    partners: how the datastore of now takes in another control plane
    describe: keys and certificates of the node with a datastore
    """

    custodian: Custodian
    client: Client
    serves: Callable[[], bool]
    stores: Callable[[DatastoreType], Store]
    voters: Callable[[DatastoreType], Voters]
    partners: Callable[[], Partners]
    describe: Describe
    ask: Ask
    patience: float = PATIENCE
    clock: Callable[[], float] = time.monotonic
    _move: str = field(default="", init=False)
    _admitting: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _work: asyncio.Task[Forecast] | None = field(default=None, init=False)

    @property
    def places(self) -> Places:
        """Where the records and the data are."""
        return self.custodian.places

    async def forecast(self, to: DatastoreType) -> Forecast:
        """Return what a move would be: all of it is tried on a copy, and nothing is stopped.

        Raises Refused where it would be refused, and BasaltError.
        """
        async with self.custodian.undisturbed() as source:
            others = await self._require(source, to)
            began, size = self.clock(), (await source.store.status()).size
            with scratch(self.places.salvaging) as folder:
                require_room(folder, COPIES * size)
                await source.store.snapshot(folder / SNAPSHOT)
                made, contents = await transfer(_kind(source), folder / SNAPSHOT, to, folder)
                await self.stores(to).build(source.node, made, folder / "built")
            return self._told(source, to, others, size, contents, self.clock() - began + outage(others))

    async def move(self, to: DatastoreType) -> Forecast:
        """Decide that the datastore is the other one; the agents then make it so. Raises Refused and BasaltError.

        The cluster has the datastore that it had then.
        """
        # What is begun with the datastores stopped is not left half done because somebody goes away.
        self._work = work = asyncio.create_task(self._decide(to))
        return await asyncio.shield(work)

    async def outcome(self, asked: Question) -> Outcome:
        """Tell another control plane what has come of a move, and when it may join. Raises BasaltError."""
        if self._move == asked.move:
            return Outcome(GOES_ON)
        moving, moved = Moving.load(self.places.moving), Moved.load(self.places.moved)
        if moving is not None and moving.move == asked.move:
            return Outcome(GOES_ON)
        if moved is None or moved.move != asked.move:
            return Outcome(OVER)
        async with self._admitting:
            return await self._admitted(asked.name)

    async def _admitted(self, name: str) -> Outcome:
        """Give another control plane its way into the new datastore, if it is its turn. Raises BasaltError."""
        moved = Moved.load(self.places.moved)
        machine = await records.find_machine(self.client, name) if self.serves() else None
        known = await versions.read(self.client) if machine is not None else None
        # Who has joined follows what the cluster says, so that has to be right first.
        named = known.newest.settings["datastore"].get("type") if known is not None else None
        if moved is None or machine is None or named != moved.type:
            return Outcome(GOES_ON)
        if machine.role != Role.CONTROL_PLANE:
            raise BasaltError(f"{name[:63]} is no control plane of this cluster")
        if reason := await self.partners().ready_for(machine):
            log.info("%s waits for its way into the datastore: %s", machine.name, reason)
            return Outcome(GOES_ON)
        peers = await self.partners().admit(machine)
        left = tuple(host for host in moved.awaited if host != machine.ip)
        replace(moved, awaited=left).save(self.places.moved)
        return Outcome(DONE, peers, await asyncio.to_thread(self._authority, moved.type))

    async def forget(self) -> None:
        """Remove the data of the datastore that was there before, and that a move has failed. Raises Refused."""
        async with self.custodian.undisturbed():
            moved = Moved.load(self.places.moved)
            failed = await asyncio.to_thread(files.remove, self.places.move_failed)
            if failed and (moved is None or not moved.kept):
                return
            if moved is None or not moved.kept:
                found = "no data of a datastore that was moved is on this node"
                raise Refused([Failure(Code.NOT_POSSIBLE, "datastore", found, "Nothing need be done.")])
            if moved.awaited:
                raise judging.refused(
                    f"{', '.join(moved.awaited)} has not been told of the move yet", "Wait until it is up."
                )
            await asyncio.to_thread(self._forget, moved)

    @property
    def outside(self) -> frozenset[str]:
        """Addresses of control planes that have not been given their way into the new datastore yet."""
        moved = Moved.load(self.places.moved)
        return frozenset() if moved is None else frozenset(moved.awaited)

    async def _decide(self, to: DatastoreType) -> Forecast:
        async with self.custodian.undisturbed() as source:
            others = await self._require(source, to)
            began, size = self.clock(), (await source.store.status()).size
            require_room(self.places.state, COPIES * size)
            files.remove(self.places.move_failed)
            rest = Rest(secrets.token_hex(8), to.value, source.node.ip, now(), dry=False)
            log.warning("the datastore is being moved from %s to %s", _kind(source), to)
            self._move = rest.move
            try:
                async with self._fenced(source, others, rest), self._built(source, to) as contents:
                    for host in others:
                        if (await self._tell(source, host, rest)).state != RESTS:
                            raise BasaltError(f"{host} does not rest any more", "Try again.")
                    pki = await asyncio.to_thread(self._new_authority, source, to)
                    # Not in a thread: nobody can end this task while it writes, and take it for undecided.
                    Moving(rest.move, to, rest.host, rest.since, founds=True, pki=pki).save(
                        self.places.moving
                    )
            except BaseException as error:
                log.error("the datastore is not moved: %s", error)
                raise
            finally:
                self._move = ""
        self.custodian.decided()
        return self._told(source, to, others, size, contents, self.clock() - began + outage(others))

    async def _require(self, source: Source, to: DatastoreType) -> tuple[str, ...]:
        """Return the other control planes. Raises Refused where the datastore cannot be moved now."""
        judging.refuse_same(_kind(source), to)
        judging.refuse_place(self.places, to)
        if not self.serves() or source.node.followed is None:
            raise judging.refused("the node is not ready", "`basalt status` says what is missing.")
        known = tuple(
            each.ip for each in await records.machines(self.client) if each.role == Role.CONTROL_PLANE
        )
        judging.refuse_members(source.node, known, await self.voters(_kind(source)).members())
        others = tuple(host for host in source.node.control_planes if host != source.node.ip)
        asked = Rest("", to.value, source.node.ip, now(), dry=True)
        await asyncio.gather(*(self._tell(source, host, asked) for host in others))
        return others

    @asynccontextmanager
    async def _fenced(self, source: Source, others: Sequence[str], rest: Rest) -> AsyncIterator[None]:
        """Have no member of the datastore run within, and this one have all that was acknowledged.

        So many others rest first that nothing can be written without this member. What can be written then shows that
        it has all that was written before; and what is written later, it has as well.
        """
        left = await self._needed(source, others, rest)
        if others:
            await self._patiently(lambda: self.client.apply(_object(source, rest)))
        async with self.custodian.rest(*WRITERS):
            await asyncio.gather(*(self._rests(source, host, rest) for host in left))
            async with self.custodian.rest(*WRITERS, source.store.unit):
                yield

    async def _needed(self, source: Source, others: Sequence[str], rest: Rest) -> list[str]:
        """Have others rest until those that go on are no majority without this member; return these."""
        left, members = list(others), self.voters(_kind(source))
        while left:
            voting = {each.host for each in await self._patiently(members.members) if each.votes}
            if len(voting.intersection(left)) <= len(voting) // 2:
                break
            # Who has no vote could be given one in the place of who rests.
            host = next((each for each in left if each not in voting), left[0])
            await self._rests(source, host, rest)
            left.remove(host)
        return left

    @asynccontextmanager
    async def _built(self, source: Source, to: DatastoreType) -> AsyncIterator[Contents]:
        """Build the new datastore of what this member has, while none runs."""
        with scratch(self.places.salvaging) as folder:
            _, snapshot = await salvaged_of(source.store, folder)
            made, contents = await transfer(_kind(source), snapshot, to, folder)
            async with building(self.stores(to), source.node, made, self.places.owner, self.places.moving):
                yield contents

    async def _rests(self, source: Source, host: str, rest: Rest) -> None:
        """Have another control plane's datastore rest, and wait until it does."""
        end = self.clock() + self.patience
        while (await self._tell(source, host, rest)).state != RESTS:
            if self.clock() >= end:
                raise BasaltError(
                    f"the datastore on {host} does not stop", f"See `basalt logs basalt` on {host}."
                )
            await asyncio.sleep(AGAIN)

    async def _tell(self, source: Source, host: str, rest: Rest) -> Resting:
        try:
            return Resting.from_dict(await asyncio.to_thread(self.ask, source.certificates, host, REST, rest))
        except DocumentError as error:
            first = error.failures[0]
            raise Refused([Failure(first.code, first.path, f"{host}: {first.found}", first.remedy)]) from None
        except BasaltError as error:
            found, remedy = (
                f"{host} cannot be asked to take part: {error}",
                "All control planes have to be up.",
            )
            raise judging.refused(found, remedy) from error

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it again while it fails: somebody else may have to lead first."""
        end = self.clock() + self.patience
        while True:
            try:
                return await work()
            except BasaltError:
                if self.clock() >= end:
                    raise
            await asyncio.sleep(AGAIN)

    def _new_authority(self, source: Source, to: DatastoreType) -> dict[str, str]:
        before = source.certificates.authority(f"{_kind(source)}/ca")
        key, certificate = ca.inheritor(self.describe(to).authority(f"{to}/ca"), before)
        return {"key": key.decode(), "certificate": certificate.decode()}

    def _authority(self, datastore: DatastoreType) -> dict[str, str]:
        """Return the authority of the datastore of now. Raises BasaltError where it is missing."""
        authority = self.describe(datastore).authority(f"{datastore}/ca")
        key, certificate = files.read_or_none(authority.key), files.read_or_none(authority.certificate)
        if key is None or certificate is None:
            raise BasaltError(ca.absent(authority), ca.ABSENT)
        return {"key": key.decode(), "certificate": certificate.decode()}

    def _forget(self, moved: Moved) -> None:
        before, present = self.describe(DatastoreType(moved.kept)), self.describe(moved.type)
        remove_tree(sealed(self.places.folder(DatastoreType(moved.kept))))
        names = {each.name for each in present.authorities} | {each.name for each in present.certificates}
        pairs: tuple[Authority | CertificateSpec, ...] = (*before.authorities, *before.certificates)
        for pair in pairs:
            if pair.name not in names:
                files.remove(pair.certificate)
                files.remove(pair.key)
        replace(moved, kept="").save(self.places.moved)

    def _told(
        self,
        source: Source,
        to: DatastoreType,
        others: tuple[str, ...],
        size: int,
        contents: Contents,
        seconds: float,
    ) -> Forecast:
        return Forecast(
            _kind(source), to, size, contents.keys, contents.revision, round(seconds), source.node.ip, others
        )


def outage(others: Sequence[str]) -> float:
    """Return the seconds without writes that are to be expected beside the copying; others: rest one by one."""
    return OUTAGE + FURTHER * len(others)


def _kind(source: Source) -> DatastoreType:
    return source.node.config.datastore.type


def _object(source: Source, rest: Rest) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": OBJECT, "namespace": "kube-system"},
        "data": {
            "move": rest.move,
            "from": _kind(source).value,
            "to": rest.to,
            "since": rest.since,
            "by": source.node.name,
        },
    }
