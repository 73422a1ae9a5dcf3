# SPDX-License-Identifier: Apache-2.0
"""keepalived's configuration: tried before it is used, and taken up without letting go of the address.

It starts when its partners would tell it that one of them carries the address: it would carry it, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from firstboot import files, run
from firstboot.failure import BasaltError
from firstboot.files import File
from firstboot.paths import API_VERDICT, RUN
from firstboot.pki.catalogue import Catalogue
from firstboot.services.model import Node
from firstboot.services.virtualaddress import CONFIGURED, INTRODUCED, UNIT
from firstboot.steps.model import Finding, Machine

log = logging.getLogger(__name__)

SECONDS = 30.0
"""How long keepalived may take to look at a file: emulated machines are slow."""
PATIENCE = 6.0
"""Seconds for which the partners' answers are waited for; who is off costs a start as long."""


@dataclass(frozen=True)
class Configured:
    """The file is as wanted, and keepalived has accepted it.

    folder:  where it is tried
    verdict: file of the watch, which it follows
    """

    wanted: File
    folder: Path = field(default=RUN, compare=False)
    verdict: Path = field(default=API_VERDICT, compare=False)
    name: str = CONFIGURED
    needs: tuple[str, ...] = ("certificates",)
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Compare content and mode."""
        if files.is_so(self.wanted):
            return None
        if not self.verdict.exists():
            return Finding(str(self.verdict), "wait", "is not written yet")
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


def _told_by(node: Node, certificates: Catalogue, host: str) -> bool:
    from firstboot.cluster import joining

    return joining.told_by(node, certificates, host)


@dataclass(frozen=True)
class Introduced:
    """Every control plane that answers would tell this one that it carries the address; asked before keepalived starts.

    told_by: asks the one on a host; raises BasaltError
    """

    node: Node = field(repr=False)
    certificates: Catalogue = field(repr=False)
    told_by: Callable[[Node, Catalogue, str], bool] = field(default=_told_by, repr=False, compare=False)
    patience: float = field(default=PATIENCE, compare=False)
    name: str = INTRODUCED
    needs: tuple[str, ...] = ("certificates",)
    lasts: ClassVar[bool] = False

    async def check(self, machine: Machine) -> Finding | None:
        """Ask all of them at once, unless keepalived runs: from then on they tell it, or are told of it in turn."""
        unit = machine.units.get(UNIT)
        others = [host for host in self.node.control_planes if host != self.node.ip]
        if not others or (unit is not None and unit.up):
            return None
        asked = {host: asyncio.create_task(asyncio.to_thread(self._is_told_by, host)) for host in others}
        done, _ = await asyncio.wait(asked.values(), timeout=self.patience)
        silent = [host for host, task in asked.items() if task in done and not task.result()]
        if not silent:
            return None
        return Finding(f"{UNIT}.service", "wait", f"{', '.join(silent)} does not know this control plane yet")

    async def apply(self, machine: Machine) -> None:
        """Only time helps."""

    def _is_told_by(self, host: str) -> bool:
        try:
            return self.told_by(self.node, self.certificates, host)
        except (BasaltError, OSError) as error:
            # Who cannot be asked is not heard by VRRP either.
            log.debug("%s does not say whether it tells who carries the API's address: %s", host, error)
            return True


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
