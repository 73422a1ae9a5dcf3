# SPDX-License-Identifier: Apache-2.0
"""A node becomes what a backup says, with its services, users and confinement: also when the power is cut meanwhile."""

from __future__ import annotations

import json

import pytest

from firstboot.report.status import Phase

from . import states
from .conftest import ReadyCopy
from .machine import Machine

TOOL_SECONDS = 600.0
"""For a command that moves all data of an emulated node."""
FILE, SECRET = "/var/tmp/cluster.backup", "/var/tmp/passphrase"
LEAP = 1_000_000_000


def restore(machine: Machine) -> int:
    """Take a backup, change what is there, and have the backup restored; return the backup's revision."""
    machine.write(SECRET, "correct horse battery\n", mode="0600")
    taken = machine.run(f"basalt datastore backup {FILE} --passphrase-file {SECRET}", timeout=TOOL_SECONDS)
    revision = int(taken.stdout.splitlines()[0].rpartition(" ")[2])
    machine.kubectl("delete", "configmap", "kept")
    machine.kubectl("create", "configmap", "later")
    refused = machine.run(
        f"basalt datastore restore {FILE} --passphrase-file /etc/hostname --yes", check=False
    )
    assert refused.code == 1 and "Traceback" not in refused.stderr
    command = f"basalt datastore restore {FILE} --passphrase-file {SECRET} --yes"
    assert "The node becomes cluster" in machine.run(command, timeout=TOOL_SECONDS).stdout
    return revision


def check(machine: Machine, revision: int) -> None:
    """Prove that the node is what it was when the backup was taken, and that revisions go on behind all others."""
    machine.wait_for_phase(Phase.READY)
    states.check_furniture(machine)
    assert "later" not in machine.kubectl("get", "configmaps", "--no-headers").stdout
    assert json.loads(machine.run("basalt datastore status --json").stdout)["revision"] > revision + LEAP
    machine.kubectl("create", "configmap", "afterwards")
    left = machine.run("ls -A /var/lib /var/lib/basalt").stdout
    assert ".restored" not in left and ".replaced" not in left and "restore" not in left
    assert machine.failed_units() == []


# Both ways for both datastores would cost make test two more restarts of everything; what differs is in the datastores.
@pytest.mark.parametrize(
    "datastore",
    [pytest.param("dqlite", marks=pytest.mark.soak), pytest.param("etcd", marks=pytest.mark.variant)],
)
def test_a_backup_brings_back_what_was_there(ready_copy: ReadyCopy, datastore: str) -> None:
    machine = ready_copy(datastore)
    check(machine, restore(machine))


@pytest.mark.parametrize("datastore", ["dqlite", pytest.param("etcd", marks=pytest.mark.soak)])
def test_the_power_is_cut_once_the_restore_is_decided(ready_copy: ReadyCopy, datastore: str) -> None:
    machine = ready_copy(datastore)
    revision = restore(machine)
    machine.power_cut()
    machine.start()
    machine.wait_for_boot()
    check(machine, revision)
