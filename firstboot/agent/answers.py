# SPDX-License-Identifier: Apache-2.0
"""What the APIs ask the agent, and who answers it.

Whoever answers is imported when asked for the first time: a machine that starts imports nothing that it does not need.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from firstboot.api.node import JoinToken, NotYet, PlannedStep
from firstboot.cluster import leaving
from firstboot.codes import Code
from firstboot.config import Datastore, DatastoreType, Role
from firstboot.failure import BasaltError, Failure, Refused
from firstboot.pki.catalogue import Catalogue, catalogue
from firstboot.report.status import Phase, Status
from firstboot.values import bracketed

from .rest import Rest
from .standing import Standing, kubernetes_version

if TYPE_CHECKING:
    from aiohttp.web import Application

    from firstboot.backup.custodian import Custodian
    from firstboot.backup.making import Source
    from firstboot.backup.routine import Routine
    from firstboot.cluster.admission import Admission
    from firstboot.cluster.partners import Partners
    from firstboot.cluster.removal import Progress
    from firstboot.cluster.rotator import Rotator
    from firstboot.cluster.steward import Steward
    from firstboot.moving.mover import Mover
    from firstboot.moving.partaker import Partaker
    from firstboot.pki.validity import Validity

SETTINGS = "settings"
"""The step that follows the cluster's settings."""

POLICIES = "policies"
"""The step that notices whether the cluster has network policies."""

ROTATION = "ca-rotation"
"""The step that follows the rotation of the cluster's CA."""

CONTROL_PLANES = "control-planes"
"""The step that finds the control planes of the cluster."""


class Answers:
    """The agent as the APIs see it: `firstboot.api.node.Node` for people, `for_nodes` for other nodes."""

    def __init__(self, standing: Standing, planned: Callable[[], Awaitable[Sequence[PlannedStep]]]) -> None:
        """Answer from how the node stands; planned: says what the next round would do."""
        self._standing = standing
        self._planned = planned

    def status(self) -> Status:
        """Return the newest status."""
        return self._standing.current

    async def plan(self) -> Sequence[PlannedStep]:
        """Return what the next pass would do, without doing it."""
        return await self._planned()

    async def kubeconfig(self, server: str | None) -> str:
        """Return the administrator's kubeconfig."""
        from firstboot.pki.kubeconfig import render

        course = self._standing.known()
        spec = course.certificates.kubeconfig("admin")
        if not spec.path.exists():
            raise NotYet("there is no administrator's certificate yet", "Ask again when the node is ready.")
        host = next(iter(course.node.config.cluster.api_hosts), course.node.ip)
        return render(spec, server or f"https://{bracketed(host)}:6443")

    async def certificates(self) -> Sequence[Validity]:
        """Return all certificates of the node, read anew."""
        from firstboot.pki.validity import brought, listed

        course = self._standing.known()
        return await asyncio.to_thread(listed, course.certificates, brought(course.node.config))

    async def join_token(self, role: Role | None, lifetime: int) -> JoinToken:
        """Make a one-time token for a machine of the role."""
        self._standing.require_control_plane("a worker gives out no tokens")
        record = await self.admission.new_token(role, lifetime)
        return JoinToken(record.token.text, record.role, record.expires or 0)

    async def remove_node(self, name: str, force: bool, timeout: int) -> AsyncIterator[Progress]:
        """Return the removal of a node; it goes on as it is iterated."""
        from firstboot.cluster.removal import Removal
        from firstboot.cluster.voters import voters

        node = self._standing.require_control_plane("a worker removes no other nodes").node
        if self._standing.leaver.departure is not None:
            raise NotYet("a node that is leaving removes no other nodes", "Ask a control plane.")
        members = voters(node.config.datastore.type, self._standing.client)
        return Removal(self._standing.client, members, node.name, name, force, timeout).run()

    async def reset(self, force: bool) -> str:
        """Begin a reset, unless others may count on this machine."""
        standing = self._standing
        try:
            standing.leaver.require()
        except BasaltError as error:
            raise _refused_reset(str(error), error.hint) from None
        node = standing.course.node if standing.course else None
        alone = force or node is None or standing.behind is not None
        if not alone and node is not None and (reasons := await leaving.company(standing.client, node)):
            raise _refused_reset(*reasons)
        name = node.name if node else standing.current.node.name
        standing.leaver.reset(name)
        standing.wake.set()
        return name

    @cached_property
    def datastore(self) -> Custodian:
        """Who looks after this control plane's datastore; has an answer on control planes only."""
        from firstboot.backup.custodian import Custodian
        from firstboot.datastores.zones import zones

        known = partial(zones, self._standing.client)
        return Custodian(self._source, self._decided, self._rest, self._standing.places, zones=known)

    def _source(self) -> Source:
        """Return what a backup is taken of. Raises NotYet where there is no datastore."""
        from firstboot.backup.making import Source
        from firstboot.datastores.store import store

        course = self._standing.require_control_plane("a worker has no datastore")
        member = store(course.node.config.datastore, self._standing.client)
        image = self._standing.current.image.version
        return Source(course.node, course.certificates, member, image, kubernetes_version())

    def _decided(self) -> None:
        """Say at once that the node is not ready: who waits for it to be ready again may ask at once."""
        self._standing.was_ready = False
        self._standing.publish(replace(self._standing.current, phase=Phase.STARTING))
        self._standing.wake.set()

    @asynccontextmanager
    async def _rest(self, *units: str) -> AsyncIterator[None]:
        """Have units stopped until the end; nothing else is done meanwhile. Raises BasaltError.

        units: none for the datastore alone
        """
        before, rest = self._standing.rest, Rest(units or (self._source().store.unit,))
        self._standing.rest = rest
        self._standing.wake.set()
        try:
            await rest.wait()
            yield
        finally:
            self._standing.rest = before
            self._standing.wake.set()

    @cached_property
    def routine(self) -> Routine:
        """Backups on a timer; followed on control planes only."""
        from firstboot.backup.routine import Routine

        return Routine(self.datastore)

    @property
    def last_backup(self) -> str | None:
        """When the newest backup on a timer was taken, as far as they are followed."""
        return self.routine.last if "routine" in vars(self) else None

    @property
    def failures(self) -> tuple[Failure, ...]:
        """What there is to tell: who was refused to join, and that no backup could be taken."""
        refusals = self.admission.refusals if "admission" in vars(self) else ()
        failure = self.routine.failure if "routine" in vars(self) else None
        return (*refusals, failure) if failure else refusals

    @property
    def settings(self) -> Steward:
        """Who answers about the cluster's settings. Raises NotYet where nobody can ask the cluster."""
        from firstboot.cluster.steward import Steward

        if not self._standing.known().certificates.certificate("agent").certificate.exists():
            raise NotYet("the node has no certificates yet", "Ask again when the node is ready.")
        return Steward(
            self._standing.client,
            may=lambda: self._standing.require_control_plane("a worker changes no settings"),
            changed=partial(self._standing.look_anew, SETTINGS),
        )

    @cached_property
    def rotator(self) -> Rotator:
        """Who answers about the rotation of the cluster's CA."""
        from firstboot.cluster.rotator import Rotator

        return Rotator(
            self._standing.client,
            authority=lambda: self._standing.known().certificates.certificate("agent").ca,
            known=lambda: self._standing.known().node.rotation,
            may=self._may_rotate,
            changed=partial(self._standing.look_anew, ROTATION),
        )

    def _may_rotate(self) -> None:
        self._standing.require_control_plane("a worker replaces no CA")
        if not self._standing.serves():
            raise NotYet("the control plane is not ready yet", "Ask again when the node is ready.")

    def for_nodes(self) -> Application:
        """Return what other nodes can ask of this control plane."""
        from firstboot.api import nodes

        app = nodes.application(self.admission)
        nodes.add_moves(app, self.mover, self.partaker)
        return app

    @cached_property
    def admission(self) -> Admission:
        """The gate for machines that want to join; asked on control planes only."""
        from firstboot.cluster.admission import Admission
        from firstboot.cluster.partners import Present

        return Admission(
            self._standing.client,
            node=lambda: self._standing.known().node,
            addresses=lambda: self._standing.current.node.addresses,
            certificates=lambda: self._standing.known().certificates,
            datastore=Present(self.partners),
            serves=self._standing.serves,
            kubernetes=kubernetes_version,
            find_anew=partial(self._standing.look_anew, CONTROL_PLANES),
        )

    def partners(self) -> Partners:
        """How the datastore of now takes in another control plane."""
        from firstboot.cluster.partners import partners

        node = self._standing.known().node
        return partners(node.config.datastore.type)(
            self._standing.client,
            self._standing.memory.membership,
            lambda: node,
            self._standing.serves,
            lambda: self.mover.outside,
        )

    @cached_property
    def mover(self) -> Mover:
        """Who moves the datastore of the cluster; has an answer on control planes only."""
        from firstboot.cluster.joining import ask
        from firstboot.cluster.voters import voters
        from firstboot.datastores.store import store
        from firstboot.moving.mover import Mover

        client = self._standing.client
        return Mover(
            self.datastore,
            client,
            serves=lambda: self._standing.current.phase.ready and self._standing.serves(),
            stores=lambda kind: store(Datastore(kind), client),
            voters=lambda kind: voters(kind, client),
            partners=self.partners,
            describe=self.described,
            ask=ask,
        )

    @cached_property
    def partaker(self) -> Partaker:
        """The control plane's part in a move that another one makes."""
        from firstboot.cluster.joining import ask
        from firstboot.moving.partaker import Partaker

        return Partaker(self.datastore, self._standing.wake.set, ask)

    def described(self, datastore: DatastoreType) -> Catalogue:
        """Return the keys and certificates of the node with a datastore."""
        node = self._standing.known().node
        config = replace(node.config, datastore=replace(node.config.datastore, type=datastore))
        return catalogue(config, node.name, self._standing.current.node.addresses or [node.ip])


def _refused_reset(found: str, remedy: str) -> Refused:
    return Refused([Failure(Code.RESET_REFUSED, "reset", found, remedy)])
