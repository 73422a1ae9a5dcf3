# SPDX-License-Identifier: Apache-2.0
"""Several machines on a network of their own that can be cut in parts.

    with Cluster(image) as cluster:
        first = cluster.add(member("node-1", 1, …))
        cluster.add(member("node-2", 2, …))
        first.wait_for_phase()
        cluster.switch.divide(["node-1"], ["node-2"])

Each machine's first network card is on the switch, without DHCP: the setup brings its own network settings.
The second is the closed user network, for the ports on 127.0.0.1.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from image.vm.arguments import Accelerator, EmptyNetwork, SwitchNetwork
from image.vm.fleet import address, network_config
from image.vm.seed import Document, user_data
from image.vm.switch import Switch

from . import ready
from .drives import NoCloud, test_data
from .machine import CLOSED, Machine, Setup

APART = EmptyNetwork()
"""What the first card of a machine is on that has no cluster around it."""


class Cluster:
    """Machines that come and go; a context manager like each of them."""

    def __init__(self, image: Path, *, accelerator: Accelerator = Accelerator.TCG) -> None:
        """Describe a network without machines."""
        self._image, self._accelerator = image, accelerator
        self._stack = ExitStack()
        self._machines: dict[str, Machine] = {}

    def __enter__(self) -> Self:
        folder = Path(tempfile.mkdtemp(prefix="basalt-"))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        self.switch = self._stack.enter_context(Switch(folder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, value, trace)

    def __getitem__(self, name: str) -> Machine:
        return self._machines[name]

    def __iter__(self) -> Iterator[Machine]:
        return iter(self._machines.values())

    def add(self, setup: Setup, saved: Path | None = None) -> Machine:
        """Switch on a machine, a new one or a copy of a saved one, and return it."""
        joined = replace(setup, networks=(SwitchNetwork(self.switch.connect(setup.name)), CLOSED))
        if saved:
            machine = ready.clone(saved, joined, self._image, self._accelerator)
        else:
            machine = Machine(joined, self._image, accelerator=self._accelerator)
        self._machines[setup.name] = self._stack.enter_context(machine)
        if saved:
            # Its clock stands where it was saved, and the others' clocks are the host's.
            machine.run(f"date --utc --set=@{time.time():.3f}")
        return machine


def member(name: str, number: int, document: Document, *, memory: int = 3072, way_out: bool = True) -> Setup:
    """Return a machine of a cluster: its address among the machines ends with the number.

    way_out: whether its other card has a default route (which leads nowhere: the network is closed)
    """
    described = {**document, "node": {**document.get("node", {}), "name": name, "ip": address(number)}}
    seed = NoCloud(user_data(described), name, network_config(name, address(number), way_out=way_out))
    return Setup(name=name, extra=(test_data(), seed), memory=memory, networks=(APART, CLOSED))
