# SPDX-License-Identifier: Apache-2.0
"""A node's part in the rotation of its cluster's CA: it follows the stage, and says in the cluster how far it is.

The files come first and by the node's own record, whether anybody answers or not. Only what the record says is the
cluster's affair, and a stage is written down when all that it takes is on this machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

from firstboot import files, pki
from firstboot.cluster import rotation
from firstboot.cluster.messages import Wanted
from firstboot.cluster.rotation import ANNOTATION, NAME, Rotation, Stage
from firstboot.codes import Code
from firstboot.failure import BasaltError, Failure
from firstboot.pki import overlap, trusted
from firstboot.pki.ca import Authority
from firstboot.pki.catalogue import Catalogue
from firstboot.pki.overlap import Overlap
from firstboot.pki.verdict import Ledger
from firstboot.report import status
from firstboot.services.model import Node
from firstboot.steps.model import Finding, Machine
from firstboot.steps.objects import Applied
from firstboot.steps.telling import tell

MANAGER = "basalt-ca-rotation"
"""Whose field the annotation is."""
HELD = 360.0
"""Seconds after which no client goes on with what it has read: those of Kubernetes look at their files, and at whom
they are connected to with an old certificate, every five minutes."""

PATIENCE = timedelta(minutes=15)
"""How long a stage may take before who is behind is told as a failure."""


@dataclass(frozen=True)
class Authorities:
    """The files of the cluster's CA are of the stage that the node has written down.

    signer: whether the node has the CA's key
    """

    authority: Authority = field(repr=False)
    overlap: Overlap | None = field(repr=False)
    signer: bool
    name: str = "authorities"
    needs: tuple[str, ...] = ()
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Compare them."""
        wrong = await asyncio.to_thread(overlap.check, self.authority, self.overlap)
        return Finding(str(self.authority.certificate), "write", wrong) if wrong else None

    async def apply(self, machine: Machine) -> None:
        """Write them; the step that looks after certificates follows."""
        await asyncio.to_thread(overlap.apply, self.authority, self.overlap, signer=self.signer)


@dataclass(frozen=True)
class FollowRotation:
    """The node's record is of the cluster's rotation, and a control plane has the key that it needs for that."""

    node: Node
    certificates: Catalogue = field(repr=False)
    record: Path = field(compare=False)
    name: str = "ca-rotation"
    needs: tuple[str, ...] = ("apiserver",)
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Compare the cluster with the record."""
        found, known = await rotation.read(machine.client), Rotation.load(self.record)
        if found is not None:
            if found.rotation == known or (known is None and self._joined_later(found.rotation)):
                return None
            return Finding(
                str(self.record), "write", f"the rotation of the CA is in stage {found.rotation.stage}"
            )
        if known is None or known.stage is Stage.DONE:
            return None
        if known.stage is Stage.TRUST:
            return Finding(str(self.record), "remove", "the rotation of the CA was cancelled")
        return (
            Finding(NAME, "create", "a rotation is under way, and its object is gone")
            if self._signer
            else None
        )

    async def apply(self, machine: Machine) -> None:
        """Write the record when all is there that the stage takes; the next round follows it."""
        found, known = await rotation.read(machine.client), Rotation.load(self.record)
        if found is not None:
            await asyncio.to_thread(self._follow, found.rotation)
        elif known is not None and known.stage is Stage.TRUST:
            await asyncio.to_thread(self._forget, known)
        elif known is not None and known.stage is Stage.SIGN and self._signer:
            # Where somebody else was quicker, his is followed; it is the same.
            await rotation.create(machine.client, known)

    def _joined_later(self, found: Rotation) -> bool:
        """Whether the node knows nothing but the new authority: it need not write down that there was another one."""
        own = trusted.first(files.read_or_none(self._authority.certificate) or b"")
        return found.stage is Stage.DONE and own == trusted.first(found.new.encode())

    @property
    def _signer(self) -> bool:
        return self.node.config.role.has_control_plane

    @property
    def _authority(self) -> Authority:
        return self.certificates.certificate("agent").ca

    def _follow(self, wanted: Rotation) -> None:
        self._require_vouched(wanted)
        if self._signer:
            self._have_key(wanted)
        if (known := Rotation.load(self.record)) is not None and known.id != wanted.id:
            # Of one that was cancelled while this machine was off.
            files.remove(self._authority.key_to_come(known.id))
        wanted.save(self.record)

    def _require_vouched(self, wanted: Rotation) -> None:
        """Raise BasaltError for CAs that do not follow from the one that this node has."""
        known = overlap.known_to(self._authority)
        own, (old, *_), (new, *_) = known[0], overlap.path(wanted.old), overlap.path(wanted.new)
        vouched = overlap.vouches(old, overlap.only(wanted.voucher), new)
        match wanted.stage:
            case Stage.TRUST:
                sound = own == old and vouched
            case Stage.SIGN:
                # Who joins in this stage is given both.
                sound = vouched and (own == old or (own == new and old in known))
            case Stage.DONE:
                sound = own == new or (own == old and vouched)
        if not sound:
            raise BasaltError(
                f"the CAs that {NAME} in kube-system names were not vouched for by the one of this node",
                "Was another datastore put in the place of the cluster's, or has somebody written that object? "
                "Compare it with /etc/kubernetes/pki/ca.crt; nothing is followed until then.",
            )

    def _have_key(self, wanted: Rotation) -> None:
        """Fetch the new authority's key from another control plane, unless it is here. Raises BasaltError."""
        public = overlap.fingerprint(wanted.new)
        if overlap.key_of(self._authority, public, wanted.id) is not None:
            return
        from firstboot.cluster import joining

        others = [host for host in self.node.control_planes if host != self.node.ip]
        pem = joining.ca_key(self.certificates, others, Wanted(wanted.id, public)).encode()
        place = self._authority.key_to_come(wanted.id)
        files.write(place, pem, self._authority.mode, self._authority.owner)
        if overlap.key_of(self._authority, public, wanted.id) is None:
            files.remove(place)
            raise BasaltError("a control plane has given another key than that of the cluster's next CA")

    def _forget(self, cancelled: Rotation) -> None:
        files.remove(self._authority.key_to_come(cancelled.id))
        files.remove(self.record)


@dataclass(frozen=True)
class TellRotation:
    """The Node object says which stage its machine is through with."""

    node: str
    rotation: Rotation
    certificates: Catalogue = field(repr=False)
    ledger: Ledger = field(repr=False, compare=False)
    told: Applied = field(repr=False, compare=False)
    needs: tuple[str, ...]
    wall: Callable[[], float] = field(default=time.time, repr=False, compare=False)
    name: str = "ca-rotation-told"
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Look how far the machine is, unless it was told lately that it is through."""
        if self.told.fresh(self._object(self.rotation.stage)):
            return None
        reached = await asyncio.to_thread(self._reached)
        if reached is None or self.told.fresh(self._object(reached)):
            return None
        return Finding(f"node/{self.node}", "annotate", f"through with stage {reached} of the CA's rotation")

    async def apply(self, machine: Machine) -> None:
        """Tell it."""
        reached = await asyncio.to_thread(self._reached)
        if reached is not None and await tell(machine.client, self._object(reached), MANAGER):
            self.told.note(self._object(reached))

    def _object(self, reached: Stage) -> dict[str, object]:
        annotations = {ANNOTATION: self.rotation.says(reached)}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.node, "annotations": annotations},
        }

    def _reached(self) -> Stage | None:
        """Return the last stage that the machine is through with."""
        stage = self.rotation.stage
        authority = self.certificates.certificate("agent").ca
        there = overlap.check(authority, self.rotation.overlap) is None
        if there and not pki.check(self.certificates, self.ledger) and self._held(stage, authority):
            return stage
        before = list(Stage).index(stage) - 1
        return list(Stage)[before] if before >= 0 else None

    def _held(self, stage: Stage, authority: Authority) -> bool:
        """Whether all clients on this machine have taken up what a stage has changed."""
        if stage is Stage.DONE or (stage is Stage.TRUST and self.rotation.chainable):
            # To forget is nothing that others wait for; and who is shown a voucher need not have read anything.
            return True
        changed = (
            [authority.trusted]
            if stage is Stage.TRUST
            else [each.certificate for each in self.certificates.certificates if each.ca == authority]
        )
        return self.wall() - max(path.stat().st_mtime for path in changed) >= HELD


@dataclass
class Behind:
    """Who is not through with a stage of a rotation, as this control plane has last seen."""

    of: Rotation | None = None
    names: tuple[str, ...] = ()

    def shown(self, known: Rotation | None) -> status.Rotation | None:
        """Return what the status says of a rotation that is under way; known: what the node follows."""
        if known is None or known.stage is Stage.DONE:
            return None
        return status.Rotation(known.stage.value, known.since, self.names if known == self.of else None)

    def failures(self, known: Rotation | None, at: datetime | None = None) -> Iterator[Failure]:
        """Yield what people have to look at: a stage lasts long, and it is known who has not got through."""
        shown = self.shown(known)
        if shown is None or not shown.behind or known is None:
            return
        if (at or datetime.now(UTC)) - datetime.fromisoformat(known.since) < PATIENCE:
            return
        what = "trust the next CA" if known.stage is Stage.TRUST else "have certificates of the new CA only"
        found = f"since {known.since} it is waited until all nodes {what}; not yet {', '.join(shown.behind)}"
        remedy = (
            "Their own status says what they lack. A machine that is off comes back or is taken out "
            "(`basalt remove-node`); see docs/certificates.md."
        )
        yield Failure(Code.ROTATION_BEHIND, "ca", found, remedy)


@dataclass(frozen=True)
class AdvanceRotation:
    """When all nodes trust the new authority it signs; any control plane may say so."""

    rotation: Rotation
    behind: Behind = field(repr=False, compare=False)
    name: str = "ca-rotation-stage"
    needs: tuple[str, ...] = ("ca-rotation",)
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Look what all nodes have said."""
        reached = await rotation.reached(machine.client, self.rotation)
        self.behind.of, self.behind.names = self.rotation, self.rotation.behind(reached)
        if self.rotation.stage is not Stage.TRUST or self.behind.names:
            return None
        return Finding(NAME, "write", "all nodes trust the next CA")

    async def apply(self, machine: Machine) -> None:
        """Begin the next stage, unless somebody else was quicker."""
        found = await rotation.read(machine.client)
        if found is not None and found.rotation == self.rotation:
            await rotation.put(machine.client, self.rotation.at(Stage.SIGN), found)
