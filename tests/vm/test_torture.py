# SPDX-License-Identifier: Apache-2.0
"""Eight writers, then the power of a Ready node goes: whatever was acknowledged is there when it is back, pods too.

The journal of acknowledgements is kept outside of the machine, so the cut cannot shorten it.
"""

from __future__ import annotations

import json
from functools import partial

import pytest

from firstboot.report.status import Phase
from image.vm.arguments import JOURNAL_PORT

from . import drives, states
from .conftest import ReadyCopy
from .machine import Machine

ENDPOINTS = {
    "dqlite": ["--endpoint", "unix:///run/k8s-dqlite/kine.sock"],
    "etcd": [
        *("--endpoint", "https://127.0.0.1:2379", "--cacert", "/etc/kubernetes/pki/etcd/ca.crt"),
        *("--cert", "/etc/kubernetes/pki/apiserver-etcd-client.crt"),
        *("--key", "/etc/kubernetes/pki/apiserver-etcd-client.key"),
    ],
}
LEAST_RECORDS = 100
"""Records that must be in the journal before the power is cut, so that there is something to lose."""
PROGRAM = "/run/etcd-torture"


@pytest.mark.parametrize("datastore", ["dqlite", pytest.param("etcd", marks=pytest.mark.variant)])
def test_power_cut_under_load_loses_nothing_acknowledged(ready_copy: ReadyCopy, datastore: str) -> None:
    machine = ready_copy(datastore)
    target = " ".join(ENDPOINTS[datastore])
    install(machine)
    # Type=exec: that the program could not be started is told at once.
    machine.run(
        "systemd-run --quiet --unit=torture --property=Type=exec "
        f"--property=StandardOutput=file:/dev/virtio-ports/{JOURNAL_PORT} "
        f"{PROGRAM} write {target} --duration 10m --journal -"
    )
    machine.wait_until("the writers are at work", partial(enough, machine, LEAST_RECORDS), 120)
    machine.power_cut()
    machine.start()
    machine.wait_for_boot()
    machine.wait_for_phase(Phase.READY)
    states.check_furniture(machine)
    install(machine)
    journal = whole_lines((machine.folder / "journal").read_text(errors="replace"))
    machine.write("/run/torture.journal", journal)
    verdict = machine.run(
        f"{PROGRAM} verify {target} --journal /run/torture.journal", timeout=300, check=False
    )
    assert verdict.code == 0, f"{verdict.stdout[-4000:]}{verdict.stderr[-2000:]}"
    assert json.loads(verdict.stdout)


def install(machine: Machine) -> None:
    """Put the writers' program where it can be executed: files of the test disk have no such mode."""
    drives.mount(machine)
    machine.run(f"install -m 0755 {drives.TEST_FOLDER}/etcd-torture {PROGRAM}")


def enough(machine: Machine, count: int) -> bool:
    """Whether the journal has that many records."""
    return records(machine) >= count


def records(machine: Machine) -> int:
    """Return how many whole records the journal outside of the machine has."""
    path = machine.folder / "journal"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def whole_lines(text: str) -> str:
    """Return the lines that are records: a cut in the middle of one leaves a piece behind."""
    return "".join(f"{line}\n" for line in text.splitlines() if is_record(line))


def is_record(line: str) -> bool:
    """Whether a line is a whole JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
