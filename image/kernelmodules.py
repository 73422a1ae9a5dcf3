# SPDX-License-Identifier: Apache-2.0
"""Unpack the kernel modules that nodes load at every start: called by mkosi.postinst.chroot, before depmod.

    python3 kernelmodules.py MODULES_FOLDER

Debian packs them with xz, which costs an emulated machine seconds at every boot. The initrd and /usr are packed as a
whole with something faster; the many drivers that one machine never loads stay small.
"""

from __future__ import annotations

import lzma
import re
import sys
from pathlib import Path

HOT = re.compile(
    r"^(net|lib|crypto|arch|fs/(autofs|configfs|efivarfs|erofs|ext4|fat|fuse|jbd2|nls|overlayfs|quota)"
    r"|drivers/(ata/(libahci|ahci|libata)|block/(loop|virtio_blk)|char|dca|firmware|md/dm-|net/(bareudp|dummy|geneve"
    r"|net_failover|tun|veth|virtio_net|vxlan|wireguard)|scsi/(scsi_|sd_mod|sr_mod|virtio_scsi)|virtio))"
    r"|^fs/[^/]*$"
)


def unpack(modules: Path) -> int:
    """Unpack the modules of a kernel and return how many there were."""
    found = [path for path in sorted((modules / "kernel").rglob("*.ko.xz")) if is_hot(path, modules)]
    for path in found:
        path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
        path.unlink()
    return len(found)


def is_hot(path: Path, modules: Path) -> bool:
    """Tell whether a module is one that is loaded on most machines."""
    return bool(HOT.search(path.relative_to(modules / "kernel").as_posix()))


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(f"{unpack(Path(folder))} kernel modules unpacked")
