# SPDX-License-Identifier: Apache-2.0
"""Boots both sides in turn, one machine at a time, each on a fresh disk of the same image."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from firstboot.report.status import Phase
from image.vm.arguments import Accelerator

from ..node import Node
from ..vm.documents import control_plane
from ..vm.machine import Machine, Setup
from . import baseline, memory, observe
from .results import Boot, Side

SETTLE_SECONDS = 150.0
"""From a running pod to the look at memory. Go collects an idle process's garbage every two minutes."""

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
    with Machine(setup(side), image, accelerator=accelerator) as machine:
        power_on = time.monotonic()
        host = HostTime.now()
        start = observe.KernelStart()
        machine.wait_for_boot()
        if side is Side.BY_HAND:
            baseline.check(machine)
        api = observe.connect(machine)
        start.look(machine)
        reached = observe.follow(machine, api)
        others = HostTime.now().others_since(host)
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
            others=round(others, 3),
            memory=memory.measure(machine),
            timings=dict(status.timings) if status else {},
        )


@dataclass(frozen=True)
class HostTime:
    """Seconds of processor time since the host started: all there was, all that was used, used by our children."""

    total: float
    used: float
    ours: float

    @classmethod
    def now(cls) -> Self:
        """Read the kernel's counters."""
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        idle = ticks[3] + ticks[4]
        children = Path("/proc/self/task").glob("*/children")
        ours = sum(ticks_of(pid) for file in children for pid in file.read_text().split())
        hertz = os.sysconf("SC_CLK_TCK")
        return cls(sum(ticks) / hertz, (sum(ticks) - idle) / hertz, ours / hertz)

    def others_since(self, before: Self) -> float:
        """Return the share of the host's processors that others used since then, stolen time included."""
        total, used, ours = (self.total - before.total, self.used - before.used, self.ours - before.ours)
        return max(0.0, used - ours) / total if total else 0.0


def ticks_of(process: str) -> int:
    """Return the processor time of a process in clock ticks, 0 for one that ended."""
    try:
        # The name, in brackets, may have blanks in it.
        fields = Path("/proc", process, "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def rest(node: Node, seconds: float) -> None:
    """Leave a node alone, but notice when it fails."""
    end = time.monotonic() + seconds
    node.wait_until("it has rested", lambda: time.monotonic() >= end, seconds + 60)
