# SPDX-License-Identifier: Apache-2.0
"""keepalived's configuration: tried before it is used, and taken up without letting go of the address."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from firstboot import files, run
from firstboot.files import File
from firstboot.paths import RUN
from firstboot.services.virtualaddress import CONFIGURED, UNIT
from firstboot.steps.model import Finding, Machine

SECONDS = 30.0
"""How long keepalived may take to look at a file: emulated machines are slow."""


@dataclass(frozen=True)
class Configured:
    """The file is as wanted, and keepalived has accepted it.

    folder: where it is tried
    """

    wanted: File
    folder: Path = field(default=RUN, compare=False)
    name: str = CONFIGURED
    needs: tuple[str, ...] = ("certificates",)
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Compare content and mode."""
        if files.is_so(self.wanted):
            return None
        return Finding(str(self.wanted.path), "write", "differs or is missing")

    async def apply(self, machine: Machine) -> None:
        """Write what keepalived accepts; raises RunError for what it does not, and the file is as it was."""
        tried = replace(self.wanted, path=self.folder / f"{UNIT}.tried")
        files.write_all([tried])
        try:
            await run.run_async(["keepalived", "--config-test", f"--use-file={tried.path}"], timeout=SECONDS)
        finally:
            files.remove(tried.path)
        files.write_all([self.wanted])


@dataclass(frozen=True)
class Reloaded:
    """A keepalived that runs was told of its configuration; a start would give the address away.

    folder: for a copy of what this boot's keepalived was told of. One that is missing, since the agent was killed in
            between, costs one more word to it and nothing else.
    """

    wanted: File
    folder: Path = field(default=RUN, compare=False)
    name: str = f"reload:{UNIT}"
    needs: tuple[str, ...] = (f"unit:{UNIT}",)
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Compare the copy."""
        if files.is_so(self._told):
            return None
        unit = machine.units.get(UNIT)
        if unit is None or not unit.up:
            return Finding(f"{UNIT}.service", "wait", "is not up yet")
        return Finding(f"{UNIT}.service", "reload", "was not told of its configuration")

    async def apply(self, machine: Machine) -> None:
        """Tell it, and remember that."""
        await machine.systemd.reload(UNIT)
        files.write_all([self._told])

    @property
    def _told(self) -> File:
        return replace(self.wanted, path=self.folder / f"{UNIT}.told")
