# SPDX-License-Identifier: Apache-2.0
"""The side of the control plane that takes a node out: pods first, then the machine, then what the cluster knows of it.

Each step looks whether it is done already, so a removal that was interrupted goes on when it is asked for again. The
Node object goes last: that it is gone is how the machine knows that nobody needs it any more (see leaving).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any, TypeVar

from firstboot.cluster import drain, quorum, records, volumes
from firstboot.cluster.leaving import ANNOTATION, is_told
from firstboot.cluster.records import Machine
from firstboot.cluster.voters import Voters
from firstboot.codes import Code
from firstboot.config import Role
from firstboot.failure import BasaltError, DocumentError, Failure
from firstboot.features import metrics
from firstboot.kube import Client, KubeError

log = logging.getLogger(__name__)

T = TypeVar("T")

MANAGER = "basalt-removal"
"""Whose fields the cordon and the annotation are: the agent's own would be taken from the node by these."""
POLL = 2.0
"""Seconds between two looks at what is waited for."""
REPEAT = 20.0
"""Seconds after which is said again what is waited for: whoever listens knows that somebody still works on it."""
SILENCE = 25.0
"""Seconds without a sign of life after which a kubelet has stopped; it gives one every ten."""
STOP = 180.0
"""Least seconds that the machine is given to stop its kubelet, however long its pods took."""
MOST = 10
"""How many claims are named."""
INSIST = 60.0
"""Seconds for which a request is made again that fails because the datastore finds a new leader."""


class Stage(StrEnum):
    """What a removal is doing."""

    CHECK = "check"
    CORDON = "cordon"
    DRAIN = "drain"
    LEAVE = "leave"
    DATASTORE = "datastore"
    RECORDS = "records"
    NODE = "node"


@dataclass(frozen=True)
class Progress:
    """Something a removal has done or waits for, in one line."""

    step: Stage
    text: str

    def to_dict(self) -> dict[str, str]:
        """Return it as the API shows it."""
        return {"step": self.step.value, "text": self.text}


@dataclass(frozen=True)
class Leaves:
    """Who leaves; machine and node: what the cluster has of it, as far as an earlier removal has left it."""

    name: str
    machine: Machine | None
    node: Any

    @property
    def host(self) -> str | None:
        """The machine's address."""
        if self.machine is not None:
            return self.machine.ip
        return records.internal_address(self.node)

    @property
    def is_control_plane(self) -> bool:
        """Whether it may be a member of the datastore."""
        if self.machine is not None:
            return self.machine.role == Role.CONTROL_PLANE
        return records.ROLE_LABEL in self.node["metadata"].get("labels", {})


@dataclass(frozen=True)
class Removal:
    """One node's way out.

    own:     name of the node that is asked
    force:   the machine is lost: nothing is waited for, and pods are deleted
    timeout: seconds for the pods to go
    """

    client: Client
    voters: Voters
    own: str
    name: str
    force: bool
    timeout: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def run(self) -> AsyncIterator[Progress]:
        """Take the node out and say how it goes. Raises DocumentError for what people have to do, and BasaltError."""
        deadline = self.clock() + self.timeout
        leaves = await self._found()
        kept = await volumes.on_node(self.client, self.name)
        if kept and not self.force:
            raise self._keeps(kept)
        if leaves.is_control_plane:
            await self._quorum(leaves)
            yield Progress(Stage.CHECK, f"the datastore can do without {self.name}")
        if leaves.node is not None:
            await self._mark(leaves)
            yield Progress(Stage.CORDON, f"{self.name} gets no new pods")
            async for text in self._delete() if self.force else self._drain(deadline):
                yield Progress(Stage.DRAIN, text)
            await self._mark(leaves, leave=True)
            yield Progress(Stage.LEAVE, f"{self.name} is told to leave")
            if not self.force:
                async for text in self._silent(max(deadline, self.clock() + STOP)):
                    yield Progress(Stage.LEAVE, text)
        else:
            yield Progress(
                Stage.LEAVE, f"{self.name} is not registered, so its machine cannot be told: switch it off"
            )
        if leaves.is_control_plane:
            await self._insist(lambda: self._out_of_datastore(leaves))
            yield Progress(Stage.DATASTORE, f"{self.name} is no member of the datastore")
        await self._insist(lambda: records.forget(self.client, self.name))
        yield Progress(Stage.RECORDS, f"{self.name} gets no certificates any more")
        await self._insist(lambda: volumes.forget(self.client, self.name))
        if kept:
            yield Progress(Stage.RECORDS, f"what was on its disk is given up: {', '.join(kept)}")
        await self._insist(self._delete_node)
        yield Progress(Stage.NODE, f"{self.name} is out of the cluster: its name and address are free")
        log.info("%s was taken out of the cluster", self.name)

    async def _found(self) -> Leaves:
        """Return what the cluster has of the node. Raises DocumentError where it cannot be removed from here."""
        if self.name == self.own:
            others = [
                each.name
                for each in await records.machines(self.client)
                if each.role == Role.CONTROL_PLANE and each.name != self.own
            ]
            if others:
                raise self._refused(
                    f"{self.name} is the node that is asked",
                    f"Ask another control plane to remove it: {', '.join(others)}.",
                )
            raise self._refused(
                f"{self.name} is the last control plane",
                "To give up the whole cluster, use `basalt reset` on it.",
            )
        machine = await records.find_machine(self.client, self.name)
        node = await self.client.get(self._node)
        if machine is None and node is None:
            found, remedy = f"the cluster has no node {self.name}", "`kubectl get nodes` lists what there is."
            raise DocumentError([Failure(Code.NODE_UNKNOWN, self.name, found, remedy)])
        return Leaves(self.name, machine, node)

    async def _quorum(self, leaves: Leaves) -> None:
        """Raise DocumentError if the datastore cannot do without the member."""
        if leaves.host is None:
            return
        if reason := quorum.refusal(await self.voters.members(), leaves.host):
            remedy = "Bring back the members that do not work, or let another control plane join first."
            found = f"the datastore cannot do without {self.name}: {reason}"
            raise DocumentError([Failure(Code.QUORUM_NEEDED, self.name, found, remedy)])

    async def _mark(self, leaves: Leaves, *, leave: bool = False) -> None:
        """Keep new pods away from the node; with leave, also tell its machine."""
        metadata = {"name": self.name, "uid": leaves.node["metadata"]["uid"]}
        told = {"annotations": {ANNOTATION: "true"}} if leave or is_told(leaves.node) else {}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {**metadata, **told},
            "spec": {"unschedulable": True},
        }
        await self.client.apply(node, MANAGER)

    async def _drain(self, deadline: float) -> AsyncIterator[str]:
        """Evict all pods and wait until they are gone, or raise DocumentError when the time is over."""
        said = _Said(self.clock)
        while True:
            try:
                left = await drain.pods(self.client, self.name)
                blocked = [pod for pod in left if not pod.stops and not await drain.evict(self.client, pod)]
                if not left:
                    yield f"no pod has to leave {self.name} any more"
                    return
                text = _waiting(left, blocked)
            except KubeError as error:
                if error.status:
                    raise
                text = f"the API does not answer: {error}"
            if self.clock() >= deadline:
                remedy = (
                    "Raise the budget or the timeout and run it again, or use --force if the machine is lost. "
                    f"Until then {self.name} gets no new pods; `kubectl uncordon {self.name}` takes that back."
                )
                raise DocumentError([Failure(Code.PODS_REMAIN, self.name, text, remedy)])
            if said.worth(text):
                yield text
            await self.sleep(POLL)

    async def _delete(self) -> AsyncIterator[str]:
        """Delete all pods: their machine is lost."""
        left = await drain.pods(self.client, self.name)
        for pod in left:
            await drain.delete(self.client, pod)
        yield f"{_counted(len(left))} deleted"

    async def _silent(self, deadline: float) -> AsyncIterator[str]:
        """Wait until the kubelet has given no sign of life for a while, or the node is gone."""
        said, last, since = _Said(self.clock), await self._beat(), self.clock()
        while self.clock() - since < SILENCE:
            if self.clock() >= deadline:
                found = f"the kubelet of {self.name} still runs"
                remedy = "See `basalt status` on that machine. If the machine is lost, use --force."
                raise DocumentError([Failure(Code.MACHINE_RUNS, self.name, found, remedy)])
            if said.worth("stopping"):
                yield f"waits until {self.name} has stopped its kubelet"
            await self.sleep(POLL)
            beat = await self._beat()
            if beat != last:
                last, since = beat, self.clock()
        yield f"the kubelet of {self.name} has stopped"

    async def _beat(self) -> str | None:
        """Return the newest sign of life of the kubelet; what is asked in vain tells nothing new."""
        lease = await self._insist(
            lambda: self.client.get(
                f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{self.name}"
            )
        )
        return None if lease is None else str(lease["spec"].get("renewTime"))

    async def _out_of_datastore(self, leaves: Leaves) -> None:
        """Take the member out, if it is still one and the datastore can do without it now."""
        await self._quorum(leaves)
        if member := quorum.member_on(await self.voters.members(), leaves.host or ""):
            await self.voters.remove(member)

    async def _delete_node(self) -> None:
        slices = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices"
        await self._remove_object(f"{slices}/{metrics.endpoint_name(self.name)}")
        await self._remove_object(self._node)

    async def _remove_object(self, path: str) -> None:
        try:
            await self.client.send("DELETE", path)
        except KubeError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    async def _insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something again until it works, for a while: while leadership moves, requests fail."""
        end = self.clock() + INSIST
        while True:
            try:
                return await work()
            except DocumentError:
                raise
            except BasaltError as error:
                if self.clock() >= end:
                    raise
                log.info("tried again: %s", error)
            await self.sleep(POLL)

    @property
    def _node(self) -> str:
        return f"/api/v1/nodes/{self.name}"

    def _keeps(self, kept: list[str]) -> DocumentError:
        """Return the refusal of a removal that would take data with it: the machine is reset when it has left."""
        more = f" and {len(kept) - MOST} more" if len(kept) > MOST else ""
        return self._refused(
            f"its disk holds the data of {', '.join(kept[:MOST])}{more}",
            "Save what is wanted and delete these. If the machine is lost, and the data with it, use --force.",
        )

    def _refused(self, found: str, remedy: str) -> DocumentError:
        return DocumentError([Failure(Code.REMOVE_REFUSED, self.name, found, remedy)])


@dataclass
class _Said:
    """What was said last and when: the same again only after a while."""

    clock: Callable[[], float]
    text: str = ""
    when: float = 0.0

    def worth(self, text: str) -> bool:
        """Whether the text is news by now."""
        if text == self.text and self.clock() - self.when < REPEAT:
            return False
        self.text, self.when = text, self.clock()
        return True


def _waiting(left: tuple[drain.Pod, ...], blocked: list[drain.Pod]) -> str:
    """Return what a drain waits for: a budget before anything else, since only people change that."""
    if blocked:
        others = f", and {len(blocked) - 1} more" if len(blocked) > 1 else ""
        return f"pod {blocked[0]} waits for its disruption budget{others}"
    return f"{_counted(len(left))} still there: {left[0]}{' and others' if len(left) > 1 else ''}"


def _counted(count: int) -> str:
    return "1 pod is" if count == 1 else f"{count or 'no'} pods are"
