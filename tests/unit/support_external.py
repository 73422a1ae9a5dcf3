# SPDX-License-Identifier: Apache-2.0
"""An etcd of somebody else for tests: its authority, its servers' certificates and its clients'."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from firstboot.pki import ca, leaf
from firstboot.pki.ca import Authority
from firstboot.pki.leaf import CertificateSpec, Usage

ENDPOINTS = ["https://192.0.2.5:2379", "https://etcd-2.example.org:2379"]


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: str
    key: str


def authority(folder: Path, name: str = "etcd-ca") -> Authority:
    """Make an authority in a folder."""
    made = Authority(name, name, folder / f"{name}.crt", folder / f"{name}.key", None)
    ca.apply(made)
    return made


def pair(by: Authority, name: str, usage: Usage = Usage.CLIENT, now: datetime | None = None) -> Pair:
    """Make a certificate, of a server on 127.0.0.1 or of a client; now: when it is made, for one that has ended."""
    addresses = ("127.0.0.1",) if usage is Usage.SERVER else ()
    spec = CertificateSpec(name, by, name, ip_addresses=addresses, usages=(usage,))
    made = leaf.issue(spec, ca.load(by), now)
    return Pair(made.certificate.decode(), made.key.decode())


def section(by: Authority, client: Pair | None = None, **changes: Any) -> dict[str, Any]:
    """Return `datastore.external` of a document."""
    shown = client or pair(by, "client")
    return {
        "endpoints": list(ENDPOINTS),
        "ca": by.certificate.read_text(),
        "client-certificate": shown.certificate,
        "client-key": shown.key,
        **changes,
    }
