# SPDX-License-Identifier: Apache-2.0
"""Several machines on a network of their own that can be cut in parts.

    with Cluster([Setup(name="node-1", …), Setup(name="node-2", …)], image) as cluster:
        cluster["node-1"].wait_for_phase()
        cluster.switch.divide(["node-1"], ["node-2", "node-3"])

Each machine's first network card is on the switch, without DHCP: the setup brings its own network settings.
The second is the closed user network, for the ports on 127.0.0.1.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from image.vm.arguments import Accelerator, SwitchNetwork
from image.vm.fleet import PRIVATE, network_config
from image.vm.seed import Document, user_data
from image.vm.switch import Switch

from .drives import NoCloud, test_data
from .machine import CLOSED, Machine, Setup

NETWORK = PRIVATE
"""The first three numbers of the private network's addresses."""

MakeMachine = Callable[[Setup], Machine]


class Cluster:
    """Machines that are switched on together; a context manager like each of them."""

    def __init__(
        self,
        setups: Sequence[Setup],
        image: Path,
        *,
        accelerator: Accelerator = Accelerator.TCG,
        make: MakeMachine | None = None,
    ) -> None:
        """Describe the machines; make: how to come by one, for example as a copy of a saved one."""
        self._setups = setups
        self._make = make or (lambda setup: Machine(setup, image, accelerator=accelerator))
        self._stack = ExitStack()
        self._machines: dict[str, Machine] = {}

    def __enter__(self) -> Self:
        folder = Path(tempfile.mkdtemp(prefix="basalt-"))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            self.switch = self._stack.enter_context(Switch(folder))
            for setup in self._setups:
                networks = (SwitchNetwork(self.switch.connect(setup.name)), CLOSED)
                machine = self._make(replace(setup, networks=networks))
                self._machines[setup.name] = self._stack.enter_context(machine)
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, value, trace)

    def __getitem__(self, name: str) -> Machine:
        return self._machines[name]

    def __iter__(self) -> Iterator[Machine]:
        return iter(self._machines.values())

    def stop(self) -> None:
        """Hold all machines still, so that saving them one after the other finds them at one moment."""
        for machine in self:
            with machine.monitor() as monitor:
                monitor.execute("stop")


def member(name: str, number: int, document: Document, *, memory: int = 3072) -> Setup:
    """Return a machine of a cluster: its address among the machines ends with the number."""
    described = {**document, "node": {**document.get("node", {}), "name": name, "ip": f"{NETWORK}.{number}"}}
    seed = NoCloud(user_data(described), name, network_config(name, f"{NETWORK}.{number}"))
    return Setup(name=name, extra=(test_data(), seed), memory=memory)
