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
class KeepalivedConfig:
    """The file is as wanted, and a keepalived that runs was told of it.

    folder: for what this boot knows: the file that is tried, and a copy of what keepalived was told of. A copy that is
            missing, since the agent was killed in between, costs one more word to it and nothing else.
    """

    wanted: File
    folder: Path = field(default=RUN, compare=False)
    name: str = CONFIGURED
    needs: tuple[str, ...] = ("certificates",)
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Compare the file, and then the copy."""
        if not files.is_so(self.wanted):
            return Finding(str(self.wanted.path), "write", "differs or is missing")
        return (
            None if files.is_so(self._told) else Finding(f"{UNIT}.service", "reload", "has not read it yet")
        )

    async def apply(self, machine: Machine) -> None:
        """Write what keepalived accepts, and tell it; raises RunError for what it does not, and nothing has changed."""
        if not files.is_so(self.wanted):
            await self._try()
            files.write_all([self.wanted])
        unit = machine.units.get(UNIT)
        if unit and unit.running:
            await machine.systemd.reload(UNIT)
        files.write_all([self._told])

    async def _try(self) -> None:
        tried = replace(self.wanted, path=self.folder / f"{UNIT}.tried")
        files.write_all([tried])
        try:
            await run.run_async(["keepalived", "--config-test", f"--use-file={tried.path}"], timeout=SECONDS)
        finally:
            files.remove(tried.path)

    @property
    def _told(self) -> File:
        return replace(self.wanted, path=self.folder / f"{UNIT}.told")
