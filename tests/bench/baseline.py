# SPDX-License-Identifier: Apache-2.0
"""A machine of the same image that starts a cluster by hand: by-hand/start.sh, with keys made on this host.

The script comes as a credential, everything else as a tar archive on a disk. Credentials also add a unit to systemd's
first transaction: nothing in user space can be started earlier.
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
from image.vm.arguments import Credential

from ..node import NodeFailed
from ..vm.channel import SYSTEM_CREDENTIALS
from ..vm.documents import control_plane
from ..vm.machine import Machine, Setup

HERE = Path(__file__).parent / "by-hand"
SCRIPT = "bench.baseline"
UNIT = "baseline"
NODE, ADDRESS = "node-1", "10.0.2.15"

SERVICE = f"""\
[Unit]
Description=Control plane by hand
DefaultDependencies=no
# The initrd reads credentials too.
ConditionPathExists=!/etc/initrd-release

[Service]
ExecStart=/bin/bash {SYSTEM_CREDENTIALS}/{SCRIPT}
Delegate=yes
DelegateSubgroup=shell
"""
WANTED = f"[Unit]\nWants={UNIT}.service\n"
NEVER = f"[Unit]\nConditionPathExists=!{SYSTEM_CREDENTIALS}/{SCRIPT}\n"
REPLACED = ("basalt", "basalt-images", "containerd", "cloud-init-main", "cloud-init-local")
"""Services of the image that leave this machine to the script."""


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
    """Return what starts the script, and keeps the image's own services from starting."""
    return (
        Credential(SCRIPT, (HERE / "start.sh").read_text()),
        Credential(f"systemd.extra-unit.{UNIT}.service", SERVICE),
        Credential("systemd.unit-dropin.sysinit.target", WANTED),
        *(Credential(f"systemd.unit-dropin.{name}.service", NEVER) for name in REPLACED),
    )


def setup() -> Setup:
    """Return the machine."""
    digest = hashlib.sha256()
    for path in sorted(path for path in (HERE / "etc").rglob("*") if path.is_file()):
        digest.update(path.read_bytes())
    return Setup(name=NODE, extra=(Files(digest.hexdigest()),), credentials=credentials())


def check(machine: Machine) -> None:
    """Raise NodeFailed unless the script was started; without it there would be nothing to wait for."""
    if not machine.run(f"test -d /sys/fs/cgroup/system.slice/{UNIT}.service", check=False).ok:
        raise NodeFailed(
            "the script was not started: systemd-debug-generator, which makes units of credentials, did not do so"
        )
