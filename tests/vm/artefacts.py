# SPDX-License-Identifier: Apache-2.0
"""What a failed test leaves behind: console, journal, status, and the command to repeat it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from firstboot.failure import BasaltError
from image.vm.place import ROOT

if TYPE_CHECKING:
    from .machine import Machine

LOGS = ROOT / "build" / "test-logs"
JOURNAL_SECONDS = 120.0

_living: list[Machine] = []
_test = "no-test"


def begin(test: str) -> None:
    """Note which test runs now; what an earlier run kept of it goes away."""
    global _test
    _test = folder_name(test)
    shutil.rmtree(LOGS / _test, ignore_errors=True)


def remember(machine: Machine) -> None:
    """Note a machine that lives now."""
    _living.append(machine)


def forget(machine: Machine) -> None:
    """Note that a machine is gone."""
    if machine in _living:
        _living.remove(machine)


def keep_all() -> list[Path]:
    """Keep the files of every machine that lives now, and return their folders."""
    return [keep(machine) for machine in _living]


def keep(machine: Machine) -> Path:
    """Copy what a machine has to tell; a second call for the same machine and test adds nothing."""
    target = LOGS / _test / machine.folder.name
    if target.is_dir():
        return target
    target.mkdir(parents=True)
    for name in ("console.log", "qemu.log", "command.txt"):
        if (machine.folder / name).is_file():
            shutil.copyfile(machine.folder / name, target / name)
    if machine.on:
        _keep_journal(machine, target)
        _keep_status(machine, target)
    return target


def _keep_journal(machine: Machine, target: Path) -> None:
    command = "journalctl --no-pager -o short-monotonic | gzip -c"
    try:
        packed = machine.channel.run(command, timeout=JOURNAL_SECONDS)
        (target / "journal.txt.gz").write_bytes(packed.output)
    except BasaltError as error:
        (target / "journal.txt").write_text(f"not read: {error}\n")


def _keep_status(machine: Machine, target: Path) -> None:
    try:
        status = machine.status()
    except (BasaltError, KeyError) as error:
        (target / "status.txt").write_text(f"not read: {error}\n")
        return
    if status:
        (target / "status.json").write_text(json.dumps(status.to_dict(), indent=2) + "\n")


def folder_name(test: str) -> str:
    """Return a test's id as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "-", test.removeprefix("tests/")).strip("-")[:120]
