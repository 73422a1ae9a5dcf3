# SPDX-License-Identifier: Apache-2.0
"""Files that the agent keeps as they should be, and folders from which it removes what it no longer wants."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from firstboot import files
from firstboot.files import File
from firstboot.steps.model import Finding, Machine


@dataclass(frozen=True)
class Files:
    """All files of one purpose, written together; their folders are made."""

    name: str
    files: tuple[File, ...]
    needs: tuple[str, ...] = ()
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Compare content, mode and owner."""
        wrong = [file for file in self.files if not files.is_so(file)]
        if not wrong:
            return None
        kind = "differs" if wrong[0].path.exists() else "is missing"
        others = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        return Finding(str(wrong[0].path), "write", f"{kind}{others}")

    async def apply(self, machine: Machine) -> None:
        """Write what differs."""
        for file in self.files:
            # Whoever reads the file has to get at it: the agent's own mask would leave that to root.
            for folder in reversed([each for each in file.path.parents if not each.exists()]):
                files.directory(folder)
        files.write_all(self.files)


@dataclass(frozen=True)
class Absent:
    """Files that must not be there: what an earlier document asked for and this one does not.

    pattern: glob below `folder`; `keep` are the paths that are still wanted
    """

    name: str
    folder: Path
    pattern: str
    keep: frozenset[Path]
    needs: tuple[str, ...] = ()
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Look for files that nobody wants."""
        left = self._left()
        return Finding(str(left[0]), "remove", "the document does not ask for it") if left else None

    async def apply(self, machine: Machine) -> None:
        """Remove them."""
        for path in self._left():
            files.remove(path)

    def _left(self) -> list[Path]:
        return [path for path in sorted(self.folder.glob(self.pattern)) if path not in self.keep]
