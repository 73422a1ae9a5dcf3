# SPDX-License-Identifier: Apache-2.0
"""A network among containers that can be cut in parts: a bridge for each part, in a network namespace of their own.

    with Wires() as wires:
        wires.connect("node-1")
        wires.divide(["node-1"], ["node-2", "node-3"])
        wires.heal()

Nothing in it has a way to the host or beyond.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

CARD = "host0"
"""What a container calls its card; systemd knows this name for it."""
PREFIX = "basalt-"
"""What the namespaces' names begin with; the process that made them follows, and which of its networks it is."""
NUMBERS = itertools.count(1)
DNS_DEVICE = "basalt-dns"
"""Where the node's DNS has its address: a dummy interface, for which a bridge without ports does as well. Not every
kernel has the first, and a container brings no modules."""


@dataclass(frozen=True)
class Wire:
    """A container's end: its network namespace, and its card's address."""

    namespace: str
    mac: str

    @property
    def path(self) -> str:
        """The namespace as a file."""
        return f"/run/netns/{self.namespace}"


class Wires:
    """The network; a context manager that leaves none of its namespaces behind."""

    def __init__(self) -> None:
        """Describe a network without anybody on it."""
        self._prefix = f"{PREFIX}{os.getpid()}-{next(NUMBERS)}"
        self._middle = f"{self._prefix}-wires"
        self._wires: dict[str, Wire] = {}

    def __enter__(self) -> Self:
        sweep()
        ip("netns", "add", self._middle)
        self._bridge(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for namespace in (*(wire.namespace for wire in self._wires.values()), self._middle):
            ip("netns", "delete", namespace)

    def connect(self, name: str) -> Wire:
        """Return the wire of a container, a new one the first time."""
        if name not in self._wires:
            self._wires[name] = self._make(name, len(self._wires) + 1)
        return self._wires[name]

    def place(self, name: str, *addresses: str) -> Wire:
        """Return the wire of something that is no container, with these addresses."""
        wire = self.connect(name)
        for address in addresses:
            # Nobody else has it, and it is to serve at once.
            length = ("64", "nodad") if ":" in address else ("24",)
            given = f"{address}/{length[0]}"
            ip("-n", wire.namespace, "address", "add", given, "dev", CARD, *length[1:])
        ip("-n", wire.namespace, "link", "set", CARD, "up")
        return wire

    def _make(self, name: str, number: int) -> Wire:
        wire = Wire(f"{self._prefix}-{name}", f"52:54:00:00:00:{number:02x}")
        ip("netns", "add", wire.namespace)
        ip("-n", wire.namespace, "link", "set", "lo", "up")
        ends = ("address", wire.mac, "type", "veth", "peer", "name", name, "netns", self._middle)
        ip("-n", wire.namespace, "link", "add", CARD, *ends)
        ip("-n", wire.namespace, "link", "add", DNS_DEVICE, "type", "bridge")
        self._plug(name, 0)
        return wire

    def divide(self, *parts: Sequence[str]) -> None:
        """Cut the network: a container reaches those of its own part only."""
        for number, names in enumerate(parts):
            self._bridge(number)
            for name in names:
                self._plug(name, number)

    def heal(self) -> None:
        """Make it one network again."""
        for name in self._wires:
            self._plug(name, 0)

    def _bridge(self, number: int) -> None:
        bridge = f"part{number}"
        if not ip("-n", self._middle, "link", "show", bridge, check=False):
            ip("-n", self._middle, "link", "add", bridge, "type", "bridge")
            ip("-n", self._middle, "link", "set", bridge, "up")

    def _plug(self, name: str, part: int) -> None:
        ip("-n", self._middle, "link", "set", name, "master", f"part{part}", "up")


def sweep() -> None:
    """Remove the namespaces of processes that were killed before they could do so themselves."""
    for path in Path("/run/netns").glob(f"{PREFIX}*"):
        if not Path("/proc", path.name.split("-")[1]).exists():
            ip("netns", "delete", path.name, check=False)


def ip(*arguments: str, check: bool = True) -> bool:
    """Run ip and return whether it succeeded; with check, raise CalledProcessError when it did not."""
    return subprocess.run(["ip", *arguments], check=check, capture_output=True, timeout=30).returncode == 0
