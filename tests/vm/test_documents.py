# SPDX-License-Identifier: Apache-2.0
"""Every way of giving a node its document; a node that follows it says where it came from.

The Ready machines get theirs from a NoCloud CD: see states.py and test_first_boot.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from firstboot.report.status import Phase
from image.vm import seed
from image.vm.arguments import Carrier, Credential, GuestForward, UserNetwork

from .conftest import Boot
from .documents import control_plane
from .drives import ConfigDrive, Drive, NoCloud
from .machine import BOOT_SECONDS, CLOSED, Machine, Setup

DOCUMENT = control_plane("dqlite", node={"name": "named-by-document"})
TEXT = seed.user_data(DOCUMENT)
METADATA_PROGRAM = Path(__file__).parent / "metadata.py"


@dataclass(frozen=True)
class Way:
    """One way: what the machine gets, and the words its status uses for the source."""

    origin: str
    drives: tuple[Drive, ...] = ()
    credentials: tuple[Credential, ...] = field(default=())


WAYS = {
    "nocloud-stick": Way("cloud-init", (NoCloud(TEXT, vfat=True),)),
    "config-drive": Way("cloud-init", (ConfigDrive(TEXT),)),
    "credential-smbios": Way("credential", credentials=(seed.document_credential(DOCUMENT),)),
    "credential-fw-cfg-over-cloud": Way(
        "credential",
        (NoCloud(seed.user_data(control_plane("etcd", node={"name": "named-by-cloud"}))),),
        (seed.document_credential(DOCUMENT, Carrier.FW_CFG),),
    ),
}


def followed(machine: Machine) -> bool:
    """Whether the node follows a document: it has a name and a role from it, and works on it."""
    status = machine.status()
    return bool(status and status.node.role and status.phase in (Phase.STARTING, Phase.READY))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_way(boot: Boot, way: Way) -> None:
    machine = boot(Setup(extra=way.drives, credentials=way.credentials))
    machine.wait_until("the document is followed", lambda: followed(machine), BOOT_SECONDS)
    status = machine.status()
    assert status and way.origin in str(status.document.origin)
    assert (status.node.name, status.node.role) == ("named-by-document", "control-plane")
    assert "k8s-dqlite" in status.components and not status.failures


@dataclass(frozen=True)
class Cloud:
    """A cloud with a metadata service: how its machines are known, and the service's pages."""

    origin: str
    system: tuple[tuple[str, str], ...]
    pages: dict[str, str]


EC2_ID = "ec2e1916-9099-7caf-fd21-012345abcdef"
EC2_IDENTITY = {"instanceId": "i-0123456789abcdef0", "region": "north-1"}
OPENSTACK_META = {"uuid": "83679162-1378-4288-a2d4-70e13ec132aa", "hostname": "node-1", "name": "node-1"}
CLOUDS = {
    "ec2": Cloud(
        "cloud-init",
        (("uuid", EC2_ID), ("serial", EC2_ID), ("manufacturer", "Amazon EC2")),
        {
            f"/{version}/{page}": content
            for version in ("latest", "2009-04-04", "2021-03-23")
            for page, content in {
                "meta-data/instance-id": "i-0123456789abcdef0",
                "meta-data/local-hostname": "node-1",
                "meta-data/ami-id": "ami-1",
                "user-data": TEXT,
                "dynamic/instance-identity/document": json.dumps(EC2_IDENTITY),
            }.items()
        },
    ),
    "openstack": Cloud(
        "cloud-init",
        (("product", "OpenStack Nova"),),
        {
            f"/openstack{version}": content
            for version, content in {
                "": "latest",
                "/latest/meta_data.json": json.dumps(OPENSTACK_META),
                "/latest/user_data": TEXT,
            }.items()
        },
    ),
}


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
def test_metadata_service(boot: Boot, tmp_path: Path, cloud: Cloud) -> None:
    """The service answers at its well-known address, in the network of the first card, as on a cloud's machines.

    cloud-init asks there before there is a network at all; on another card it would first wait for minutes.
    """
    pages = tmp_path / "pages.json"
    pages.write_text(json.dumps(cloud.pages))
    command = f"/usr/bin/python3 {METADATA_PROGRAM} {pages}"
    service = UserNetwork(
        guest_forwards=(GuestForward("169.254.169.254", 80, command),), network="169.254.0.0/16"
    )
    machine = boot(Setup(system=cloud.system, networks=(service, CLOSED)))
    machine.wait_until("the document is followed", lambda: followed(machine), BOOT_SECONDS)
    status = machine.status()
    assert status and cloud.origin in str(status.document.origin)
    assert status.node.name == "named-by-document"
