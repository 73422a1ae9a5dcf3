# SPDX-License-Identifier: Apache-2.0
"""Boots both sides in turn, one machine at a time, each on a fresh disk of the same image."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from firstboot.report.status import Phase
from image.vm.arguments import Accelerator

from ..vm.documents import control_plane
from ..vm.machine import Machine, Setup
from . import baseline, memory, observe
from .results import Boot, Side

SETTLE_SECONDS = 30.0
"""From a running pod to the look at memory."""

USERSPACE = "systemctl show --value -p UserspaceTimestampMonotonic"


def setup(side: Side) -> Setup:
    """Return the machine of a side: Basalt gets its document as a cloud would give it."""
    if side is Side.BASALT:
        return Setup(name=baseline.NODE, document=control_plane())
    return baseline.setup()


def pairs(image: Path, accelerator: Accelerator, count: int, settle: float) -> Iterator[Boot]:
    """Measure both sides count times; who begins changes, so that a host that gets slower is slower for both."""
    for number in range(count):
        sides = (Side.BASALT, Side.BY_HAND) if number % 2 == 0 else (Side.BY_HAND, Side.BASALT)
        for side in sides:
            print(f"boot {number + 1} of {count}, {side} …", end=" ", flush=True)
            boot = measure(side, image, accelerator, settle)
            print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in boot.seconds.items()), flush=True)
            yield boot


def measure(side: Side, image: Path, accelerator: Accelerator, settle: float) -> Boot:
    """Boot one side, follow it until its pod runs, leave it alone for a while and look at its memory."""
    load = os.getloadavg()[0]
    with Machine(setup(side), image, accelerator=accelerator) as machine:
        power_on = time.monotonic()
        start = observe.KernelStart()
        api = observe.connect(machine)
        start.look(machine)
        reached = observe.follow(machine, api)
        for _ in range(3):
            start.look(machine)
        seconds = {"userspace": int(machine.run(USERSPACE).stdout) / 1e6}
        seconds |= {name: moment - start.moment for name, moment in reached.items()}
        if side is Side.BASALT:
            machine.wait_for_phase(Phase.READY)
        rest(machine, settle)
        status = machine.status() if side is Side.BASALT else None
        return Boot(
            side=side,
            seconds={name: round(value, 2) for name, value in seconds.items()},
            firmware=round(start.moment - power_on, 2),
            uncertainty=round(start.uncertainty, 3),
            load=round(load, 2),
            memory=memory.measure(machine),
            timings=dict(status.timings) if status else {},
        )


def rest(machine: Machine, seconds: float) -> None:
    """Leave the machine alone, but notice when it fails."""
    end = time.monotonic() + seconds
    machine.wait_until("it has rested", lambda: time.monotonic() >= end, seconds + 60)
