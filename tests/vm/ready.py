# SPDX-License-Identifier: Apache-2.0
"""Machines saved when they were Ready, to start from in a second instead of a minute.

A saved machine is a folder: its disk and firmware variables (overlays, never written to again), its seed and
its memory. A copy is two new overlays and a look at the same memory file: it costs neither time nor space.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from image import host
from image.vm import disks
from image.vm.arguments import Accelerator, qemu_arguments
from tests.node import READY_SECONDS

from .machine import Machine, Parts, Setup

KEPT = 6
"""Saved machines that stay; the longest unused go first."""
KEPT_BYTES = 16 << 30
COMPLETE = "complete.json"

HERE = Path(__file__).parent
MAKERS = (
    *(
        HERE / name
        for name in ("channel.py", "guest/channel.py", "cluster.py", "drives.py", "pods.py", "states.py")
    ),
    Path(qemu_arguments.__code__.co_filename),
)
"""Code that decides what a saved machine is: another version, another machine."""


def folder() -> Path:
    """Return where saved machines are."""
    return host.cache() / "vm" / "ready"


def key(setups: Sequence[Setup], image: Path, accelerator: Accelerator) -> str:
    """Return what saved machines are known by: image, setups, and the code that made them so."""
    facts = [
        disks.digest(image),
        str(image),  # The overlays name their backing file.
        accelerator.value,
        *(setup.fingerprint() for setup in setups),
        *(path.read_text() for path in MAKERS),
    ]
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]


def ready(
    setup: Setup,
    image: Path,
    accelerator: Accelerator,
    prepare: Callable[[Machine], None] = lambda machine: None,
) -> Path:
    """Return the folder of the saved machine, booting and saving one if there is none yet.

    prepare: what to do with the Ready machine before it is saved; its name is part of the key, its code one
             of MAKERS
    """
    name = f"{key([setup], image, accelerator)}-{prepare.__name__.strip('<>')}"
    saved = folder() / name
    with host.locked(f"ready-{name}"):
        if not (saved / COMPLETE).is_file():
            prune(folder(), KEPT - 1, KEPT_BYTES)
            _make(saved, setup, image, accelerator, prepare)
    os.utime(saved)
    return saved


def _make(
    saved: Path, setup: Setup, image: Path, accelerator: Accelerator, prepare: Callable[[Machine], None]
) -> None:
    shutil.rmtree(saved, ignore_errors=True)
    saved.mkdir(parents=True)
    started = time.monotonic()
    with Machine(setup, image, accelerator=accelerator) as machine:
        status = machine.wait_for_phase(timeout=READY_SECONDS)
        prepare(machine)
        booted = time.monotonic()
        parts = machine.save(saved / "memory")
        _move(parts, saved)
        shutil.copyfile(machine.console.path, saved / "console.log")
    figures = {
        "ready_seconds": round(booted - started, 1),
        "save_seconds": round(time.monotonic() - booted, 1),
        "timings": dict(status.timings),
    }
    (saved / COMPLETE).write_text(json.dumps(figures, indent=2) + "\n")


def _move(parts: Parts, saved: Path) -> None:
    shutil.move(parts.disk, saved / "disk.qcow2")
    shutil.move(parts.variables, saved / "variables.qcow2")
    for index, path in enumerate(parts.extra):
        shutil.move(path, saved / f"extra{index}")


def clone(saved: Path, setup: Setup, image: Path, accelerator: Accelerator) -> Machine:
    """Return a machine, not started yet, that goes on where the saved one stood and leaves that as it is."""

    def parts(target: Path) -> Parts:
        return Parts(
            disks.overlay(saved / "disk.qcow2", target / "disk.qcow2"),
            disks.overlay(saved / "variables.qcow2", target / "variables.qcow2"),
            tuple(sorted(saved.glob("extra*"))),
        )

    return Machine(setup, image, accelerator=accelerator, parts=parts, memory=saved / "memory")


def prune(place: Path, count: int, size: int) -> None:
    """Remove the longest unused saved machines: at most count stay, with at most size bytes together."""
    if not place.is_dir():
        return
    found = sorted(filter(Path.is_dir, place.iterdir()), key=lambda path: -path.stat().st_mtime)
    total = 0
    for index, path in enumerate(found):
        total += used_bytes(path)
        if index >= count or total > size:
            shutil.rmtree(path, ignore_errors=True)


def used_bytes(path: Path) -> int:
    """Return the space on disk of a folder's files, holes not counted."""
    return sum(file.stat().st_blocks * 512 for file in path.iterdir() if file.is_file())
