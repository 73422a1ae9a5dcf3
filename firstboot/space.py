# SPDX-License-Identifier: Apache-2.0
"""Whether the disk has room for what the node keeps.

A member of the datastore that cannot write is one less, and nothing else says so: the others acknowledge writes without
it, and its own API server goes on by asking them.
"""

from __future__ import annotations

import os
from pathlib import Path

from firstboot import paths
from firstboot.codes import Code
from firstboot.failure import Failure

MIB = 1024**2
LEAST = 128 * MIB
"""Free bytes below which somebody has to act: etcd takes 64 MiB at once for the next piece of its log."""


def shortage(folder: Path = paths.STATE.parent) -> Failure | None:
    """Return what to tell when less than LEAST bytes are free where a folder is, for who is not root."""
    found = os.statvfs(folder)
    if found.f_bavail * found.f_frsize >= LEAST:
        return None
    return Failure(
        Code.DISK_FULL,
        str(folder),
        # How little it is changes with every write, and each other finding is told anew on the console.
        f"less than {LEAST // MIB} of {found.f_blocks * found.f_frsize // MIB} MiB are free on the disk",
        "Give the machine a larger disk, or make room: delete pods that keep much on it, or backups. "
        "What stopped for want of room then goes on by itself.",
    )
