# SPDX-License-Identifier: Apache-2.0
"""The image under test: what `make image` left in build/, held against a build that goes on meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from image import artefacts, build, host
from image.trees import with_tools
from image.vm.disks import link_or_copy

ATTEMPTS = 10


@dataclass(frozen=True)
class Built:
    """A folder with the files of one image."""

    folder: Path

    @property
    def disk(self) -> Path:
        """Return the disk image."""
        return self.folder / artefacts.DISK

    @property
    def version(self) -> str:
        """Return the version in the names of the artefacts."""
        return self.only("basalt_*.efi").stem.removeprefix("basalt_")

    def only(self, pattern: str) -> Path:
        """Return the one file that a pattern matches."""
        found = list(self.folder.glob(pattern))
        assert len(found) == 1, f"{len(found)} files {pattern}"
        return found[0]


def hold(source: Path, target: Path) -> Built:
    """Give the files of the image in a folder second names in another; make the image first where there is none.

    `make test` has made it before any test begins, so that nothing is built here but by somebody who runs pytest alone.
    """
    host.require_root()
    for _ in range(ATTEMPTS):
        with host.locked("image-under-test"):
            if not artefacts.names(source):
                build.build()
        if _link(source, target):
            return Built(target)
    raise AssertionError(f"{source}: replaced again and again while it was looked at")


def _link(source: Path, target: Path) -> bool:
    """Link an image whole; False when a build took it away meanwhile. A build takes the key first, brings it last."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    try:
        key = (source / artefacts.KEY_FILE).read_bytes()
        for name in artefacts.names(source):
            link_or_copy(source / name, target / name)
        return key == (source / artefacts.KEY_FILE).read_bytes() and bool(artefacts.names(target))
    except FileNotFoundError:
        return False


def tool(*argv: str | Path, seconds: float = 60) -> str:
    """Run a program of the tools tree and return what it wrote; raises CommandError."""
    return host.run(with_tools(list(argv)), timeout=seconds)


def listed(things: Sequence[object]) -> str:
    """Return what to show for a list that ought to be empty: one thing a line."""
    return "".join(f"\n  {thing}" for thing in things)
