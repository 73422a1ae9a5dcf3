# SPDX-License-Identifier: Apache-2.0
"""What administrators ask about the rotation of their cluster's CA: how it stands, and that it begins or ends."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from firstboot import files
from firstboot.cluster import rotation
from firstboot.cluster.rotation import Found, Rotation, Stage
from firstboot.codes import Code
from firstboot.failure import BasaltError, DocumentError, Failure, Refused
from firstboot.kube import Client
from firstboot.pki import ca, given, keys, overlap, pasted, requested
from firstboot.pki.ca import Authority

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

log = logging.getLogger(__name__)

COMMAND = "`basalt certificates rotate-ca`"
ELSEWHERE = (
    f"Ask the control plane on which {COMMAND[:-1]} --request` was said, as each has a key of its own for that, or "
    "bring the key too: --key FILE."
)


@dataclass(frozen=True)
class Brought:
    """An authority that somebody brings, as PEM: its certificate and those above it up to the root, and its key.

    key: None for the one that was made here with a signing request
    """

    certificate: bytes
    key: bytes | None = field(repr=False)


@dataclass(frozen=True)
class Standing:
    """A rotation, and the last stage that each node has said it is through with; None: it has said nothing yet."""

    rotation: Rotation
    nodes: tuple[tuple[str, Stage | None], ...]

    @property
    def behind(self) -> tuple[str, ...]:
        """Who is not through with the present stage."""
        return self.rotation.behind(self.nodes)

    def to_dict(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        new = self.rotation
        return {
            "id": new.id,
            "stage": new.stage.value,
            "begun": new.begun,
            "since": new.since,
            "author": new.author,
            "old": _shown(new.old),
            "new": _shown(new.new),
            "vouched": new.chainable,
            "nodes": [{"name": name, "stage": stage and stage.value} for name, stage in self.nodes],
            "behind": list(self.behind),
        }


@dataclass
class Rotator:
    """One node's.

    authority: the cluster's CA
    known:     the rotation that the node has written down
    may:       raises BasaltError on a node that replaces none
    changed:   called when there is a new stage
    """

    client: Client
    authority: Callable[[], Authority]
    known: Callable[[], Rotation | None]
    may: Callable[[], None]
    changed: Callable[[], None]
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def standing(self) -> Standing | None:
        """Return how the newest rotation stands, None where there has been none.

        Where the cluster does not answer it is what the node knows itself, and nothing of the others.
        """
        try:
            found = await rotation.read(self.client)
            return None if found is None else await self._standing(found.rotation)
        except BasaltError as error:
            log.warning("how the rotation of the CA stands is not known: %s", error)
        known = self.known()
        return None if known is None else Standing(known, ())

    async def request(self) -> str:
        """Return a signing request (PEM) for an authority that somebody else signs. Raises BasaltError."""
        self.may()
        async with self._lock:
            return (await asyncio.to_thread(requested.request, self.authority(), datetime.now(UTC))).decode()

    async def begin(self, author: str, brought: Brought | None = None, *, dry: bool) -> Standing:
        """Begin a rotation, with an authority that somebody brings or one of the cluster's own; dry: only say which.

        Raises DocumentError for what is brought and cannot be used, Refused, and BasaltError.
        """
        self.may()
        async with self._lock:
            before = await rotation.read(self.client)
            if before is not None and before.rotation.stage is not Stage.DONE:
                raise _under_way(before.rotation)
            key, made = await asyncio.to_thread(prepared, self.authority(), author, brought)
            if not dry:
                await self._begin(made, key, before)
            return await self._standing(made)

    async def _begin(self, made: Rotation, key: bytes, before: Found | None) -> None:
        """Keep the key before anybody knows of its authority: who trusts that has to find a signer some day."""
        authority = self.authority()
        place = authority.key_to_come(made.id)
        await asyncio.to_thread(files.write, place, key, authority.mode, authority.owner)
        if not await rotation.put(self.client, made, before):
            await asyncio.to_thread(files.remove, place)
            raise _overtaken()
        if requested.key_for(authority) == key:
            await asyncio.to_thread(files.remove, authority.requested)
        self.changed()

    async def finish(self, without: Sequence[str]) -> Standing:
        """Have all nodes forget the old authority; without: nodes that are lost by that if they ever come back.

        Raises Refused, which names every node that is not through, and BasaltError.
        """
        self.may()
        found = await self._in_stage(
            Stage.SIGN, "Only when all nodes trust the new CA, and have its certificates."
        )
        standing = await self._standing(found.rotation)
        strangers = set(without) - {name for name, _ in standing.nodes}
        failures = [_unknown(name) for name in sorted(strangers)]
        failures += [_behind(name) for name in standing.behind if name not in without]
        if failures:
            raise Refused(failures)
        return await self._put(found.rotation.at(Stage.DONE), found)

    async def cancel(self) -> Standing:
        """Have all nodes forget the new authority, which has signed nothing yet. Raises Refused and BasaltError."""
        self.may()
        found = await self._in_stage(Stage.TRUST, "Once the new CA signs there is no way back; finish it.")
        standing = await self._standing(found.rotation)
        if not await rotation.withdraw(self.client, found):
            raise _overtaken()
        self.changed()
        return standing

    async def _put(self, made: Rotation, before: Found) -> Standing:
        if not await rotation.put(self.client, made, before):
            raise _overtaken()
        self.changed()
        return await self._standing(made)

    async def _in_stage(self, wanted: Stage, remedy: str) -> Found:
        found = await rotation.read(self.client)
        if found is None or found.rotation.stage is Stage.DONE:
            raise _refused("no rotation of the CA is under way", f"{COMMAND} says what one would do.")
        if found.rotation.stage is not wanted:
            raise _refused(f"the rotation of the CA is in stage {found.rotation.stage}", remedy)
        return found

    async def _standing(self, shown: Rotation) -> Standing:
        return Standing(shown, tuple(await rotation.reached(self.client, shown)))


def prepared(
    authority: Authority, author: str, brought: Brought | None, at: datetime | None = None
) -> tuple[bytes, Rotation]:
    """Return the key (PEM) of the authority to come and the rotation to it. Raises DocumentError and BasaltError."""
    when = (at or datetime.now(UTC)).replace(microsecond=0)
    issuer = ca.load(authority, when)
    if brought is None:
        # Two authorities of one name would be hard to tell apart, for programs, too.
        key, certificate = ca.anew(authority, ca.era(when), when)
    else:
        key, certificate = _usable(authority, brought, when)
    path = keys.read_certificates(certificate)
    if keys.public_pem(path[0].public_key()) == keys.public_pem(issuer.certificate.public_key()):
        failure = Failure(
            Code.BAD_KEY,
            "key",
            "the key of the present CA",
            "Make a new key: the old one may be known to others.",
        )
        raise DocumentError([failure])
    chainable = overlap.chainable(issuer.path, path[0])
    if not chainable and issuer.path[-1] != path[-1]:
        raise _refused(
            "the present CA can vouch for no other one in a chain (its path length, or the same name), and no root is "
            "above both: programs in pods that have read the old one would not believe the new one",
            "Bring one below the same root: --ca FILE --key FILE.",
        )
    voucher = overlap.voucher(issuer, path[0], when)
    begun = f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    identity = hashlib.sha256(keys.certificate_pem(path[0])).hexdigest()[:10]
    return keys.private_pem(keys.read_key(key)), Rotation(
        identity,
        Stage.TRUST,
        begun,
        begun,
        author,
        _pem(issuer.path),
        _pem(path),
        voucher.decode(),
        chainable,
    )


def _usable(authority: Authority, brought: Brought, now: datetime) -> tuple[bytes, bytes]:
    """Return key and certificate (PEM) of one that somebody brings.

    Raises DocumentError for one that a document could not bring either, or that was not requested here.
    """
    certificate = brought.certificate.decode(errors="replace")
    key = requested.key_for(authority) if brought.key is None else brought.key
    problem = given.certificate_problem(certificate, now)
    failures = [Failure(Code.BAD_CERTIFICATE, "certificate", *problem)] if problem else []
    if key is None:
        failures.append(
            Failure(Code.BAD_KEY, "key", "no key, and this node has requested no certificate", ELSEWHERE)
        )
    elif problem := pasted.key_problem(key.decode(errors="replace"), certificate):
        if brought.key is None:
            problem = ("no key, and the certificate is for another than the one requested last", ELSEWHERE)
        failures.append(Failure(Code.BAD_KEY, "key", *problem))
    if failures or key is None:
        raise DocumentError(failures)
    return key, brought.certificate


def _pem(path: Sequence[Certificate]) -> str:
    return b"".join(map(keys.certificate_pem, path)).decode()


def _shown(pem: str) -> dict[str, str]:
    first = overlap.first(pem)
    ends = f"{first.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    return {"subject": first.subject.rfc4514_string(), "ends": ends}


def _under_way(known: Rotation) -> Refused:
    found = f"a rotation of the CA is under way since {known.begun}, and in stage {known.stage}"
    remedy = (
        "`basalt certificates` says how it stands; --finish ends it, --cancel takes back one in stage trust."
    )
    return _refused(found, remedy)


def _overtaken() -> Refused:
    found = "somebody else has changed the rotation of the CA meanwhile"
    return _refused(found, "Look how it stands (`basalt certificates`) and decide again.")


def _refused(found: str, remedy: str) -> Refused:
    return Refused([Failure(Code.ROTATION_REFUSED, "ca", found, remedy)])


def _unknown(name: str) -> Failure:
    return Failure(
        Code.NODE_UNKNOWN, name, "the cluster has no such node", "`basalt certificates` names all."
    )


def _behind(name: str) -> Failure:
    found = "does not say yet that it has certificates of the new CA in place of all of the old one's"
    remedy = (
        "Is it on, and its status ready? It takes some minutes until all programs use them. If it is lost, take it out "
        f"(`basalt remove-node {name} --force`), or go on without it (--without {name}): then it can never come back."
    )
    return Failure(Code.ROTATION_BEHIND, name, found, remedy)
