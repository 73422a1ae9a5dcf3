# SPDX-License-Identifier: Apache-2.0
"""Every way of giving a node its document; a node that follows it says where it came from."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from firstboot.report.status import Phase
from image.vm import seed
from image.vm.arguments import Carrier, Credential

from .conftest import Boot
from .documents import control_plane
from .drives import ConfigDrive, Drive, NoCloud
from .machine import BOOT_SECONDS, Machine, Setup

DOCUMENT = control_plane("dqlite", node={"name": "named-by-document"})
TEXT = seed.user_data(DOCUMENT)


@dataclass(frozen=True)
class Way:
    """One way: what the machine gets, and the words its status uses for the source."""

    origin: str
    drives: tuple[Drive, ...] = ()
    credentials: tuple[Credential, ...] = field(default=())


WAYS = {
    "nocloud-cd": Way("cloud-init", (NoCloud(TEXT),)),
    "nocloud-stick": Way("cloud-init", (NoCloud(TEXT, vfat=True),)),
    "config-drive": Way("cloud-init", (ConfigDrive(TEXT),)),
    "credential-smbios": Way("credential", credentials=(seed.document_credential(DOCUMENT),)),
    "credential-fw-cfg": Way("credential", credentials=(seed.document_credential(DOCUMENT, Carrier.FW_CFG),)),
    "credential-over-cloud": Way(
        "credential",
        (NoCloud(seed.user_data(control_plane("etcd", node={"name": "named-by-cloud"}))),),
        (seed.document_credential(DOCUMENT),),
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
