# SPDX-License-Identifier: Apache-2.0
"""Volumes on a node's disk: their size is enforced, they grow, their data outlives a reboot and goes with its claim."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from firstboot.report.status import Phase

from . import pods, states
from .machine import Machine
from .objects import claim, mounted, write_or_read

GUEST = Path(__file__).parent / "guest"
PLACE = "/var/lib/basalt/local-storage"
MIB = 1024**2
FOLLOWED_SECONDS = 240.0
"""From a change of a setting or an object to what it means for the node, under emulation."""


def test_a_volume_from_claim_to_removal(ready_machine: Machine) -> None:
    machine = ready_machine
    # What is done with the disk, without a cluster, and what the kernel makes of it.
    machine.run(["python3", "-I", "-"], stdin=(GUEST / "quotas.py").read_bytes(), timeout=180)
    assert machine.get("storageclasses")["items"] == [], "it is off"
    machine.run("basalt enable local-storage")
    wait_for_detail(machine, "0 bytes promised to 0 volumes")
    [kind] = machine.get("storageclasses")["items"]
    assert kind["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"

    claim(machine, "data", "64Mi")
    mounted(machine, "writer", "data")
    pods.wait_answers(machine, "writer")
    bound = machine.get("pvc", "data")
    assert (
        bound["status"]["capacity"]["storage"] == "64Mi"
        and bound["spec"]["storageClassName"] == "local-storage"
    )
    wait_for_detail(machine, "64 MiB promised to 1 volume")

    # Its program is nobody in particular, and may write all the same: to the last byte, and no further.
    first = write_or_read(machine, "writer", "write", "/data/first", str(48 * MIB))
    assert first["bytes"] == 48 * MIB and "error" not in first
    assert "quota" in write_or_read(machine, "writer", "write", "/data/second", str(32 * MIB))["error"]
    grow(machine, "data", "192Mi")
    second = write_or_read(machine, "writer", "write", "/data/second", str(96 * MIB))
    assert second["bytes"] == 96 * MIB and "error" not in second
    assert "quota" in write_or_read(machine, "writer", "write", "/data/third", str(96 * MIB))["error"]

    # More than there is: said on the claim, with numbers, and the claim is free for another node.
    claim(machine, "vast", "900Gi")
    mounted(machine, "hungry", "vast")
    machine.wait_until("it is refused", partial(refused, machine, "vast", "900 GiB"), FOLLOWED_SECONDS)
    machine.kubectl("delete", "deployment", "hungry")
    machine.kubectl("delete", "pvc", "vast")

    denied = machine.run("basalt disable local-storage", check=False)
    assert denied.code == 1 and "[feature-in-use]" in denied.stderr, denied
    assert "PersistentVolumeClaim default/data would" in denied.stderr

    kept = write_or_read(machine, "writer", "read", "/data/second")
    machine.reboot()
    machine.wait_for_phase(Phase.READY)
    pods.wait_answers(machine, "writer")
    assert write_or_read(machine, "writer", "read", "/data/second") | {"seconds": 0} == kept | {"seconds": 0}
    assert "quota" in write_or_read(machine, "writer", "write", "/data/third", str(96 * MIB))["error"], (
        "the limit is still there"
    )

    # The policy is that of the class when the volume was made.
    machine.run("basalt set features.local-storage.reclaim-policy=Retain")
    machine.wait_until("the class says so", partial(retains, machine), FOLLOWED_SECONDS)
    claim(machine, "archive", "10M")
    machine.kubectl("annotate", "pvc", "archive", "volume.kubernetes.io/selected-node=node-1")
    machine.wait_until("it is bound", partial(is_bound, machine, "archive"), FOLLOWED_SECONDS)
    [archive] = [each for each in volumes(machine) if each["spec"]["claimRef"]["name"] == "archive"]
    machine.run(f"echo kept > {PLACE}/{archive['metadata']['name']}/word")
    machine.kubectl("delete", "pvc", "archive")
    machine.kubectl("delete", "deployment", "writer")
    machine.kubectl("delete", "pvc", "data")
    machine.wait_until("the other one is gone", lambda: len(volumes(machine)) == 1, FOLLOWED_SECONDS)
    assert volumes(machine)[0]["status"]["phase"] == "Released"
    assert machine.run(f"ls {PLACE}").stdout.split() == [archive["metadata"]["name"]]
    wait_for_detail(machine, "10 MiB promised to 1 volume")

    denied = machine.run("basalt disable local-storage", check=False)
    assert f"PersistentVolume {archive['metadata']['name']} would" in denied.stderr
    machine.run("basalt disable local-storage --force")
    machine.wait_until("it is off", partial(is_off, machine), FOLLOWED_SECONDS)
    assert machine.run(f"cat {PLACE}/{archive['metadata']['name']}/word").stdout == "kept\n"
    machine.wait_for_phase(Phase.READY)
    states.check_furniture(machine)
    assert machine.failed_units() == []
    # The power button: off in order, whatever runs.
    machine.shutdown()


def grow(machine: Machine, name: str, size: str) -> None:
    """Ask for more, and wait until the claim has it."""
    machine.kubectl(
        "patch", "pvc", name, "-p", json.dumps({"spec": {"resources": {"requests": {"storage": size}}}})
    )
    machine.wait_until(
        f"{name} has {size}",
        lambda: machine.get("pvc", name)["status"]["capacity"]["storage"] == size,
        FOLLOWED_SECONDS,
    )


def volumes(machine: Machine) -> list[dict[str, Any]]:
    """Return all PersistentVolumes."""
    found: list[dict[str, Any]] = machine.get("pv")["items"]
    return found


def refused(machine: Machine, name: str, number: str) -> bool:
    """Whether an Event says of the claim that there is not so much, and the claim has no node any more."""
    events = machine.get("events", f"--field-selector=involvedObject.name={name},reason=ProvisioningFailed")
    told = any(number in each["message"] and "node-1" in each["message"] for each in events["items"])
    return told and machine.get("pvc", name)["status"]["phase"] == "Pending"


def retains(machine: Machine) -> bool:
    """Whether the class leaves data."""
    found = machine.kubectl(
        "get", "storageclass", "local-storage", "-o", "jsonpath={.reclaimPolicy}", check=False
    )
    return found.stdout == "Retain"


def is_bound(machine: Machine, name: str) -> bool:
    """Whether the claim has a volume."""
    return bool(machine.get("pvc", name)["status"]["phase"] == "Bound")


def is_off(machine: Machine) -> bool:
    """Whether the service has stopped, and the class is gone."""
    runs = machine.run("systemctl is-active local-storage", check=False).ok
    return not runs and machine.get("storageclasses")["items"] == []


def wait_for_detail(machine: Machine, text: str) -> None:
    """Wait until the feature works and says that."""
    machine.wait_until(f"the status says: {text}", partial(says, machine, text), FOLLOWED_SECONDS)


def says(machine: Machine, text: str) -> bool:
    """Whether the feature works and says that."""
    status = machine.status()
    part = status.features.get("local-storage") if status else None
    return part is not None and part.state == "healthy" and text in part.detail
