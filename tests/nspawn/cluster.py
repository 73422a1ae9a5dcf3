# SPDX-License-Identifier: Apache-2.0
"""A cluster in containers: who is in it, who leads its datastore, and writers that may not lose anything."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from firstboot.report.status import Phase
from image.vm.fleet import address
from tests.members import leader, voters
from tests.node import JOIN_TOKEN, NodeFailed
from tests.torture.programs import Torture

from .container import Container, Tree
from .wires import CARD, Wires, ip

CONTROL_PLANES = ("node-1", "node-2", "node-3")
WORKER = "node-4"
JOINED_SECONDS = 300.0
"""From a start to Ready, for all of a cluster, on a busy host."""
GOES_ON_SECONDS = 60.0
"""Until writes go on when somebody else has to lead."""
WRITERS = 2
"""At each node that is written to: enough to contend, few enough to leave a small host something for the nodes."""


@dataclass
class Cluster:
    """Nodes that come and go on one network.

    rooms: MiB of the disk of a node that has one of its own
    """

    datastore: str
    tree: Tree
    folder: Path
    wires: Wires
    program: Path
    stack: ExitStack
    rooms: Mapping[str, int] = field(default_factory=dict)
    nodes: dict[str, Container] = field(default_factory=dict)
    journals: list[Torture] = field(default_factory=list)
    verified: int = 0
    founded: bool = False

    def add(self, name: str, own: Mapping[str, Any] | None = None, further: Sequence[str] = ()) -> Container:
        """Switch on a new node, in place of one of the same name.

        own:     its document, if not the usual one
        further: more addresses of its card, with prefix lengths
        """
        number = int(name.rpartition("-")[2])
        if name in self.nodes:
            self.nodes[name].discard()
        founds = name == CONTROL_PLANES[0] and not self.founded
        self.founded |= founds
        text = document(name, self.datastore if founds else None) if own is None else own
        wire, room = self.wires.connect(name), self.rooms.get(name)
        node = Container(name, address(number), text, wire, self.tree, self.folder, room, further)
        self.nodes[name] = self.stack.enter_context(node)
        return node

    @property
    def control_planes(self) -> list[Container]:
        """The control planes that run."""
        return [self.nodes[name] for name in CONTROL_PLANES if name in self.nodes and self.nodes[name].on]

    def leader(self) -> Container:
        """Return the control plane whose datastore's member leads, waiting for one."""
        found: list[Container] = []

        def leads() -> bool:
            found[:] = [node for node in self.control_planes if node.address == leader(node, self.datastore)]
            return bool(found)

        self.control_planes[0].wait_until("somebody leads", leads, GOES_ON_SECONDS)
        return found[0]

    def others(self, node: Container) -> list[Container]:
        """Return the control planes that run, without this one."""
        return [each for each in self.control_planes if each is not node]

    def carriers(self, virtual: str) -> list[Container]:
        """Return the control planes that carry an address beside their own."""
        shown = f"ip -4 -brief address show dev {CARD}"
        return [node for node in self.control_planes if f" {virtual}/32 " in node.run(shown).stdout]

    def power_cut(self, node: Container) -> None:
        """Kill a node; the card outlives a container, and would answer for its addresses."""
        node.kill()
        ip("-n", self.wires.connect(node.name).namespace, "address", "flush", "dev", CARD)

    def wait_whole(self) -> None:
        """Wait until all nodes are Ready and all control planes vote; one that is alone does, on no address."""
        for node in self.nodes.values():
            node.wait_for_phase(Phase.READY, JOINED_SECONDS, failed_units=True)
        want = {each.address for each in self.control_planes}
        for node in self.control_planes if len(want) > 1 else ():
            node.wait_until("all vote", partial(self._vote, node, want), JOINED_SECONDS)

    def _vote(self, node: Container, want: set[str]) -> bool:
        return voters(node, self.datastore) == want

    @contextlib.contextmanager
    def writing(self, *nodes: Container, seconds: float = 600) -> Iterator[Callable[[], None]]:
        """Let writers write to nodes meanwhile; yields a function that waits until each has made progress."""
        written = [self._writers(node) for node in nodes]
        running = [torture.write(seconds, writers=WRITERS) for torture in written]
        try:
            going_on = partial(wait_progress, list(zip(written, running, nodes, strict=True)))
            going_on()
            yield going_on
        finally:
            # Asked to end, they write down which writes had no answer.
            for process in running:
                process.terminate()
                process.communicate(timeout=GOES_ON_SECONDS)

    def _writers(self, node: Container) -> Torture:
        number = self.verified + len(self.journals)
        journal = self.folder / f"{number}.journal"
        torture = node.torture(self.datastore, self.program, journal, f"/registry/torture{number}/")
        self.journals.append(torture)
        return torture

    def verify(self) -> None:
        """Prove, by every control plane, that all that was acknowledged since the last time is there."""
        for node in self.control_planes:
            for torture in self.journals:
                here = node.torture(self.datastore, self.program, torture.journal, torture.prefix)
                result = here.verify()
                assert result["broken"] == {}, (node.name, torture.prefix, result["instances"])
        self.verified += len(self.journals)
        self.journals.clear()


def document(name: str, datastore: str | None) -> dict[str, Any]:
    """Return the document of a node that founds the cluster with a datastore, or asks the other control planes."""
    role = "worker" if name == WORKER else "control-plane"
    if datastore:
        cluster = {"token": JOIN_TOKEN, "bootstrap": True}
        return {"version": 1, "role": role, "cluster": cluster, "datastore": {"type": datastore}}
    known = [address(number) for number, each in enumerate(CONTROL_PLANES, 1) if each != name]
    return {"version": 1, "role": role, "cluster": {"token": JOIN_TOKEN, "endpoints": known}}


def wait_progress(writers: list[tuple[Torture, subprocess.Popen[str], Container]]) -> None:
    """Wait until each of the writers has 50 more acknowledged writes than now."""
    for torture, process, node in writers:
        goal = acknowledged(torture) + 50
        end = time.monotonic() + GOES_ON_SECONDS
        while acknowledged(torture) < goal:
            if process.poll() is not None:
                raise NodeFailed(f"{node.name}: the writers ended ({process.returncode})")
            if time.monotonic() > end:
                raise NodeFailed(f"{node.name}: writes do not go on\n{node.report()}")
            time.sleep(0.2)


def acknowledged(torture: Torture) -> int:
    """Return how many writes were acknowledged so far."""
    if not torture.journal.exists():
        return 0
    return torture.journal.read_bytes().count(b'"outcome":"made"')
