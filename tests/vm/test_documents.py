# SPDX-License-Identifier: Apache-2.0
"""Every way of giving a node its document; a node that follows it says where it came from.

The Ready machines get theirs from a NoCloud CD: see states.py and test_first_boot.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from firstboot.report.status import Phase
from image.vm import seed
from image.vm.arguments import Carrier, GuestForward, UserNetwork

from .conftest import Boot
from .documents import control_plane
from .drives import ConfigDrive, NoCloud
from .machine import BOOT_SECONDS, CLOSED, Machine, Setup

DOCUMENT = control_plane("dqlite", node={"name": "named-by-document"})
TEXT = seed.user_data(DOCUMENT)
OTHER_TEXT = seed.user_data(control_plane("etcd", node={"name": "named-by-cloud"}))
METADATA_PROGRAM = Path(__file__).parent / "metadata.py"
EC2_ID = "ec2e1916-9099-7caf-fd21-012345abcdef"
EC2_IDENTITY = {"instanceId": "i-0123456789abcdef0", "region": "north-1"}
EC2_PAGES = {
    f"/{version}/{page}": content
    for version in ("latest", "2009-04-04", "2021-03-23")
    for page, content in {
        "meta-data/instance-id": "i-0123456789abcdef0",
        "meta-data/local-hostname": "node-1",
        "meta-data/ami-id": "ami-1",
        "user-data": TEXT,
        "dynamic/instance-identity/document": json.dumps(EC2_IDENTITY),
    }.items()
}
OPENSTACK_META = {"uuid": "83679162-1378-4288-a2d4-70e13ec132aa", "hostname": "node-1", "name": "node-1"}
OPENSTACK_PAGES = {
    "/openstack": "latest",
    "/openstack/latest/meta_data.json": json.dumps(OPENSTACK_META),
    "/openstack/latest/user_data": TEXT,
}


def of_cloud(pages: Mapping[str, str], folder: Path, **system: str) -> Setup:
    """Return a machine of a cloud, which is known by its system's fields and has pages in its metadata service.

    The service answers at its well-known address, in the network of the first card, as on a cloud's machines.
    cloud-init asks there before there is a network at all; on another card it would first wait for minutes.
    """
    path = folder / f"{'-'.join(system)}.json"
    path.write_text(json.dumps(pages))
    command = f"/usr/bin/python3 {METADATA_PROGRAM} {path}"
    service = UserNetwork(
        guest_forwards=(GuestForward("169.254.169.254", 80, command),), network="169.254.0.0/16"
    )
    return Setup(system=tuple(system.items()), networks=(service, CLOSED))


WAYS: dict[str, tuple[str, Callable[[Path], Setup]]] = {
    "nocloud-stick": ("cloud-init", lambda folder: Setup(extra=(NoCloud(TEXT, vfat=True),))),
    "ec2": (
        "cloud-init",
        lambda folder: of_cloud(EC2_PAGES, folder, uuid=EC2_ID, serial=EC2_ID, manufacturer="Amazon EC2"),
    ),
    "config-drive": ("cloud-init", lambda folder: Setup(extra=(ConfigDrive(TEXT),))),
    "openstack": ("cloud-init", lambda folder: of_cloud(OPENSTACK_PAGES, folder, product="OpenStack Nova")),
    "credential-smbios": (
        "credential",
        lambda folder: Setup(credentials=(seed.document_credential(DOCUMENT),)),
    ),
    "credential-fw-cfg-over-cloud": (
        "credential",
        lambda folder: Setup(
            extra=(NoCloud(OTHER_TEXT),), credentials=(seed.document_credential(DOCUMENT, Carrier.FW_CFG),)
        ),
    ),
}
"""What the node says about where its document came from, and the machine that has it from there."""


# Two at once: until the agent runs, a machine keeps one processor busy and hardly more.
@pytest.mark.parametrize("ways", [*zip(*[iter(WAYS)] * 2, strict=True)], ids="+".join)
def test_ways(boot: Boot, tmp_path: Path, ways: tuple[str, str]) -> None:
    machines = {way: boot(WAYS[way][1](tmp_path)) for way in ways}
    for way, machine in machines.items():
        machine.wait_until(f"{way}: the document is followed", partial(followed, machine), BOOT_SECONDS)
        status = machine.status()
        assert status and WAYS[way][0] in str(status.document.origin), way
        assert (status.node.name, status.node.role) == ("named-by-document", "control-plane"), way
        assert "k8s-dqlite" in status.components and not status.failures, way
        # What comes after is a first boot like any other: test_first_boot.py.
        machine.kill()


def followed(machine: Machine) -> bool:
    """Whether the node follows a document: it has a name and a role from it, and works on it."""
    status = machine.status()
    return bool(status and status.node.role and status.phase in (Phase.STARTING, Phase.READY))
