# SPDX-License-Identifier: Apache-2.0
"""The side of the machine that leaves: it stops what runs pods, waits until the cluster has forgotten it, and resets.

A control plane's datastore and API server run to the end: the others may need its vote until it is no member any more.
That the Node object is gone says that it is none, because the control plane removes that last (see removal).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from pathlib import Path
from typing import Any

from firstboot import factory, files
from firstboot.cluster import records
from firstboot.codes import Code
from firstboot.failure import BasaltError, Failure
from firstboot.kube import SECONDS, Client, Trust
from firstboot.record import Record
from firstboot.services.model import Node
from firstboot.systemd import Systemd, Unit
from firstboot.values import bracketed

log = logging.getLogger(__name__)

ANNOTATION = "basalt.io/leave"
"""On the Node object of a machine that shall leave: the only object that a worker's agent may read."""
STOPPED = (
    *("kubelet", "load-balancer-bgp", "load-balancer-l2", "load-balancer", "traefik"),
    *("kube-proxy", "network-policy", "coredns", "flanneld", "local-storage", "metrics-server"),
    *("kube-scheduler", "kube-controller-manager", "virtual-address"),
)
"""What a machine that leaves stops, in this order: the kubelet would start pods again. The address of the API is for
one that stays."""
LOCAL = "127.0.0.1"


class Word(Enum):
    """What the cluster says about a machine that was told to leave."""

    LEAVE = "it shall go on"
    STAY = "somebody took it back"
    GONE = "the cluster has forgotten it"
    NOTHING = "nobody answers"


@dataclass(frozen=True)
class Departure(Record):
    """Why a machine leaves; on disk, so that one that is switched off meanwhile asks again before it starts anything.

    uid:   of its Node object; empty where only this machine is asked for a reset, and no cluster
    hosts: addresses of the other control planes
    """

    name: str
    uid: str = ""
    hosts: tuple[str, ...] = ()

    REMEDY = "Reset the node."

    @classmethod
    def read(cls, data: Any) -> Departure:
        """Return the record of JSON data."""
        return cls(data["name"], data["uid"], tuple(data["hosts"]))


@dataclass
class Leaver:
    """One machine's way out; failures: what its status says about it."""

    systemd: Systemd
    client: Client
    record: Path
    require: Callable[[], None] = factory.require
    request: Callable[[], None] = factory.request
    failures: tuple[Failure, ...] = ()
    departure: Departure | None = None
    _off: bool = field(default=False)

    def reset(self, name: str) -> None:
        """Begin a reset that no cluster is asked about."""
        self.departure = Departure(name)

    async def told(self, node: Node, answers: bool) -> bool:
        """Whether the machine has been told to leave, now or before it was started again.

        answers: whether the API is worth asking; one that does not answer would hold up everything else
        """
        if not node.control_planes:
            return False
        known = Departure.load(self.record)
        if known is None:
            return answers and await self._asked(node)
        match await self._word(known):
            case Word.LEAVE | Word.GONE:
                self.departure = known
                return True
            case Word.STAY:
                self._stay()
        return False

    async def go_on(self, units: Mapping[str, Unit]) -> None:
        """Do what can be done now; call it again and again while there is a departure."""
        leaves = self.departure
        if leaves is None or self._off or await self._stopping(units):
            return
        word = await self._word(leaves) if leaves.uid else Word.GONE
        if word is Word.STAY:
            log.info("%s stays in the cluster after all", leaves.name)
            self._stay()
        elif word is Word.GONE:
            await self._reset()
        else:
            self.failures = (_waits(leaves, word),)

    async def _asked(self, node: Node) -> bool:
        """Look at the own Node; whatever is wrong with the API is for others to tell."""
        try:
            found = await self.client.get(f"/api/v1/nodes/{node.name}")
        except BasaltError:
            return False
        if found is None or not is_told(found):
            return False
        others = tuple(host for host in node.control_planes if host != node.ip)
        self.departure = Departure(node.name, found["metadata"]["uid"], others)
        self.departure.save(self.record)
        log.info("told to leave the cluster")
        return True

    async def _stopping(self, units: Mapping[str, Unit]) -> bool:
        """Stop the next service that runs; whether there was one, or one that still ends."""
        for name in STOPPED:
            unit = units.get(name)
            if unit is not None and (unit.running or unit.active == "deactivating"):
                if unit.running:
                    log.info("stopping %s", name)
                    await self.systemd.stop(name)
                return True
        return False

    async def _reset(self) -> None:
        try:
            self.request()
        except BasaltError as error:
            self.failures = (Failure(Code.RESET_FAILED, "basalt", str(error), error.hint),)
            return
        log.info("the machine is reset at its next start; it powers off now")
        await self.systemd.power_off()
        self._off, self.failures = True, ()

    def _stay(self) -> None:
        files.remove(self.record)
        self.departure, self.failures = None, ()

    async def _word(self, leaves: Departure) -> Word:
        """Return what the first control plane that answers says; others first, since the own one may be out already."""
        for host in _urls(leaves.hosts):
            status, text = await self.client.get_text(
                f"{host}/api/v1/nodes/{leaves.name}", Trust.CLUSTER, SECONDS
            )
            word = _judged(status, text, leaves)
            if word is not Word.NOTHING:
                return word
        return Word.NOTHING


async def company(client: Client, node: Node) -> tuple[str, str] | None:
    """Return finding and remedy where a machine has others beside it, or may have; None where it is alone."""
    if any(host != node.ip for host in node.control_planes):
        remedy = (
            f"Remove it with `basalt remove-node {node.name}` on another control plane; that resets it, too."
        )
        return f"{node.name} is a member of a cluster of several machines", f"{remedy} Or use --force."
    try:
        nodes = (await client.get("/api/v1/nodes"))["items"]
        names = {each["metadata"]["name"] for each in nodes} | {
            each.name for each in await records.machines(client)
        }
    except BasaltError as error:
        found = f"nobody can say whether {node.name} is the only machine of its cluster: {error}"
        return found, "Use --force if it is, or if the others are to be given up."
    names.discard(node.name)
    if not names:
        return None
    found = f"{node.name} is the only control plane of {', '.join(sorted(names))}"
    return found, "Remove these first, or use --force to give up the whole cluster."


def _urls(hosts: Iterable[str]) -> list[str]:
    return [f"https://{bracketed(host)}:6443" for host in (*hosts, LOCAL)]


def _judged(status: int, text: str, leaves: Departure) -> Word:
    """Return what an answer means; one that is about anything else than this very node means nothing."""
    try:
        found = json.loads(text)
        if status == HTTPStatus.NOT_FOUND:
            details = found["details"]
            return Word.GONE if (details["kind"], details["name"]) == ("nodes", leaves.name) else Word.NOTHING
        if status != HTTPStatus.OK:
            return Word.NOTHING
        if found["metadata"]["uid"] != leaves.uid:
            return Word.GONE
    except (ValueError, KeyError, TypeError):
        return Word.NOTHING
    return Word.LEAVE if is_told(found) else Word.STAY


def is_told(node: Any) -> bool:
    """Whether a Node object says that its machine shall leave."""
    return ANNOTATION in node["metadata"].get("annotations", {})


def _waits(leaves: Departure, word: Word) -> Failure:
    """Return what the machine waits for, and how it goes on where it does not by itself."""
    found = "the cluster has not taken the node out yet"
    if word is Word.NOTHING:
        found = "no control plane says whether the node is out of the cluster"
    remedy = (
        f"It goes on by itself. If it does not: `basalt remove-node {leaves.name}` again on a control plane."
    )
    return Failure(Code.LEAVE_WAITS, "basalt.cluster", found, remedy)
