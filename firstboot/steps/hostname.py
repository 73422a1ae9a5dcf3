# SPDX-License-Identifier: Apache-2.0
"""The machine's host name is the node's name."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from firstboot import files
from firstboot.steps.model import Finding, Machine

FILE = Path("/etc/hostname")


@dataclass(frozen=True)
class Hostname:
    """Kernel and /etc/hostname agree with the node's name."""

    hostname: str
    name: str = "hostname"
    needs: tuple[str, ...] = ()
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Compare both."""
        kept = (files.read_or_none(FILE) or b"").decode(errors="replace").strip()
        if kept == self.hostname and socket.gethostname() == self.hostname:
            return None
        return Finding(str(FILE), "set", f"the host name is {socket.gethostname()}")

    async def apply(self, machine: Machine) -> None:
        """Set both."""
        files.write(FILE, f"{self.hostname}\n")
        socket.sethostname(self.hostname)
