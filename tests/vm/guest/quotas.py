# SPDX-License-Identifier: Apache-2.0
"""Volumes on the state partition, with the quotas of the node's own kernel; code 0 if all is as it should be.

Run on a node as root, which is above quotas: what fills a volume is another user's process.
"""

import errno
import os
import shutil
import sys
from pathlib import Path

from firstboot.storage.quota import ProjectQuotas
from firstboot.storage.volumes import FIRST_PROJECT, Stage, Volumes

MIB = 1024**2
NOBODY = 65534
PLACE = Path("/var/lib/basalt/quotas")


def fill(volume: Path, name: str, size: int) -> int:
    """Write a file into a volume as somebody else; return the error, 0 for none."""
    child = os.fork()
    if child == 0:
        try:
            os.chdir(volume)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT, 0o600)
            for _ in range(size // MIB):
                os.write(descriptor, bytes(MIB))
            os.fsync(descriptor)
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Make, fill, enlarge and remove volumes."""
    quotas = ProjectQuotas(PLACE)
    volumes = Volumes(PLACE, quotas)
    assert volumes.problem() is None, volumes.problem()
    before = volumes.room(volumes.folders())

    volumes.make("pvc-a", 16 * MIB)
    first = volumes.path("pvc-a")
    assert quotas.project(first) >= FIRST_PROJECT
    assert before.left - volumes.room(volumes.folders()).left >= 15 * MIB, (
        "what is promised is not promised again"
    )
    assert fill(first, "some", 12 * MIB) == 0
    assert fill(first, "more", 12 * MIB) == errno.EDQUOT
    assert shutil.disk_usage(first).total == 16 * MIB, "programs see the size of the volume"
    used = quotas.get(quotas.project(first))
    assert used.limit == 16 * MIB and 12 * MIB <= used.used <= used.limit and used.used_files == 3, used

    volumes.limit("pvc-a", 64 * MIB)
    assert fill(first, "more", 40 * MIB) == 0, "it has grown"
    assert fill(first, "rest", 40 * MIB) == errno.EDQUOT

    volumes.make("pvc-b", 16 * MIB)
    second = volumes.path("pvc-b")
    assert quotas.project(second) not in (0, quotas.project(first))
    assert fill(second, "own", 8 * MIB) == 0, "one that is full takes nothing from another"

    # A file that is open still has its room, so its project is nobody else's, though no folder has it.
    project = quotas.project(first)
    held = os.open(first / "more", os.O_RDONLY)
    volumes.remove("pvc-a")
    assert not first.exists() and not volumes.path("pvc-a", Stage.OLD).exists()
    volumes.make("pvc-c", 16 * MIB)
    assert quotas.project(volumes.path("pvc-c")) not in (0, project, quotas.project(second))
    os.close(held)
    volumes.make("pvc-d", 16 * MIB)
    assert quotas.project(volumes.path("pvc-d")) == project, "and then it is"
    assert quotas.get(project).limit == 16 * MIB
    assert fill(volumes.path("pvc-d"), "all", 12 * MIB) == 0

    # One that has left its project by chattr(1), and one that is full to the last block, can be removed.
    escaped = volumes.path("pvc-d") / "deep" / "deeper"
    escaped.mkdir(parents=True)
    quotas.assign(escaped, 0, inherited=False)
    (escaped / "file").write_text("")
    assert fill(volumes.path("pvc-d"), "rest", 12 * MIB) == errno.EDQUOT
    for name in ("pvc-b", "pvc-c", "pvc-d"):
        volumes.remove(name)
    assert volumes.folders() == [] and list(PLACE.iterdir()) == []

    # Files count, too: many empty ones are as good as full.
    volumes.make("pvc-e", MIB)
    project = quotas.project(volumes.path("pvc-e"))
    assert 0 < quotas.get(project).files <= 1024
    volumes.remove("pvc-e")


if __name__ == "__main__":
    PLACE.mkdir()
    try:
        main()
    finally:
        shutil.rmtree(PLACE)
    sys.exit(0)
