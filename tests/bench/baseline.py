# SPDX-License-Identifier: Apache-2.0
"""A machine of the same image that starts a cluster by hand: baseline/start.sh, with keys made on this host.

The script comes as a credential, everything else as a tar archive on a disk. The first device that udev finds and that
only tests' machines have starts it, with the root file system there and almost nothing else: no later than anything
that systemd itself could be told to start.
"""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from firstboot import pki
from firstboot.config import Config
from firstboot.pki.catalogue import catalogue
from firstboot.pki.verdict import Ledger
from image.vm.arguments import JOURNAL_PORT, Credential

from ..vm.channel import SYSTEM_CREDENTIALS
from ..vm.documents import control_plane
from ..vm.machine import Setup

HERE = Path(__file__).parent / "baseline"
SCRIPT = "bench.baseline"
UNIT = "baseline"
NODE, ADDRESS = "node-1", "10.0.2.15"

START = f"""\
/usr/bin/systemd-run --no-block --collect --unit={UNIT} --property=DefaultDependencies=no \
--property=Delegate=yes --property=DelegateSubgroup=shell /bin/bash {SYSTEM_CREDENTIALS}/{SCRIPT}"""


@dataclass(frozen=True)
class Files:
    """A disk that is a tar archive: static configuration and keys; digest is that of the configuration."""

    digest: str

    def make(self, folder: Path, name: str) -> Path:
        """Make the keys and pack everything."""
        target = folder / name
        with tempfile.TemporaryDirectory() as place, tarfile.open(target, "w") as archive:
            keys = Path(place) / "kubernetes"
            make_keys(keys)
            archive.add(HERE / "etc", "etc", filter=as_root)
            archive.add(keys, "etc/kubernetes", filter=as_root)
        return target


def as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave an entry to root."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def make_keys(folder: Path) -> None:
    """Make what Basalt's agent makes on a node with etcd; kubeconfigs hold their certificates."""
    described = catalogue(Config.from_dict(control_plane("etcd")), NODE, [ADDRESS], folder).unowned()
    held = tuple(replace(spec, embed=True) for spec in described.kubeconfigs)
    pki.apply(replace(described, kubeconfigs=held), Ledger(folder.with_name("ledger")))


def credentials() -> tuple[Credential, ...]:
    """Return what starts the script."""
    rule = f'ACTION=="add", SUBSYSTEM=="virtio-ports", ATTR{{name}}=="{JOURNAL_PORT}", RUN+="{START}"\n'
    return Credential("udev.rules.91-baseline", rule), Credential(SCRIPT, (HERE / "start.sh").read_text())


def setup() -> Setup:
    """Return the machine."""
    digest = hashlib.sha256()
    for path in sorted(path for path in (HERE / "etc").rglob("*") if path.is_file()):
        digest.update(path.read_bytes())
    return Setup(name=NODE, extra=(Files(digest.hexdigest()),), credentials=credentials())
