# SPDX-License-Identifier: Apache-2.0
"""User-data as the clouds hand it over on a disk, and where cloud-init looks for it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .arguments import Carrier, Credential
from .disks import iso, vfat

NOCLOUD_LABEL = "cidata"
CONFIG_DRIVE_LABEL = "config-2"
CREDENTIAL = "basalt.config"

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Instance:
    """What a cloud says about a machine: its identity (a new one makes cloud-init start over) and name."""

    id: str
    hostname: str = "node-1"

    @classmethod
    def named(cls, hostname: str) -> Instance:
        """Return an instance whose identity follows from its name."""
        return cls(str(uuid.uuid5(uuid.NAMESPACE_DNS, hostname)), hostname)


def user_data(document: Document) -> str:
    """Return the document as #cloud-config user-data; JSON is YAML that nobody can read in two ways."""
    return f"#cloud-config\n{document_text(document)}"


def document_text(document: Document) -> str:
    """Return the document as it stands in a file or a credential."""
    return f"{json.dumps({'basalt': document}, indent=2)}\n"


def document_credential(document: Document, carrier: Carrier = Carrier.SMBIOS) -> Credential:
    """Return the credential that carries the document."""
    return Credential(CREDENTIAL, document_text(document), carrier)


def nocloud_files(text: str, instance: Instance, network: str | None = None) -> dict[str, str | bytes | Path]:
    """Return the files of a NoCloud seed: user-data, meta-data and network-config (version 2), if any."""
    meta = {"instance-id": instance.id, "local-hostname": instance.hostname}
    files: dict[str, str | bytes | Path] = {"user-data": text, "meta-data": json.dumps(meta)}
    return files | ({"network-config": network} if network else {})


def config_drive_files(text: str, instance: Instance) -> dict[str, str | bytes | Path]:
    """Return the files of an OpenStack configuration drive, version 2."""
    meta = {"uuid": instance.id, "hostname": instance.hostname, "name": instance.hostname}
    return {"openstack/latest/meta_data.json": json.dumps(meta), "openstack/latest/user_data": text}


def nocloud_iso(path: Path, text: str, instance: Instance, network: str | None = None) -> Path:
    """Make a NoCloud seed as a CD image."""
    return iso(path, NOCLOUD_LABEL, nocloud_files(text, instance, network))


def nocloud_vfat(path: Path, text: str, instance: Instance) -> Path:
    """Make a NoCloud seed as a FAT disk, as written to a memory stick."""
    return vfat(path, NOCLOUD_LABEL, nocloud_files(text, instance), size=4)


def config_drive(path: Path, text: str, instance: Instance) -> Path:
    """Make an OpenStack configuration drive as a CD image."""
    return iso(path, CONFIG_DRIVE_LABEL, config_drive_files(text, instance))
