# SPDX-License-Identifier: Apache-2.0
"""The serial console as text, and what must never be on it."""

from __future__ import annotations

import re
from pathlib import Path

ESCAPES = re.compile(
    rb"\x1b\[[0-9;?=]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][0-9A-B]|\x1b[=>78cM]"
)

FORBIDDEN = tuple(
    re.compile(pattern)
    for pattern in (
        rb"Kernel panic",
        rb"Oops: ",
        rb"general protection fault",
        # A lockup report under emulation only says that the host was busy.
        rb"BUG: (?!soft lockup|workqueue lockup)",
        rb"emergency mode",
        rb"Press Enter (?:to continue|for maintenance)",
        rb"Press any key to proceed",
        rb"No bootable (?:option|device)",
        rb"ordering cycle",
        rb"\[FAILED\]",
        rb"\[DEPEND\]",
        rb"Failed to start ",
        rb"Dependency failed for ",
        rb"dm-verity.*(?:corrupted|error)",
        rb"Buffer I/O error",
        rb"EXT4-fs error",
        rb"Out of memory: Killed process",
        rb"Traceback \(most recent call last\)",
    )
)


class Console:
    """The file that QEMU writes the serial console to, read on from where the last look ended."""

    LINE_LIMIT = 4096
    """Bytes of an unfinished line that are seen again: nothing is missed, nothing told twice."""

    def __init__(self, path: Path, allowed: tuple[str, ...] = ()) -> None:
        self.path = path
        self._allowed = tuple(re.compile(pattern.encode()) for pattern in allowed)
        self._offset = 0
        self._seam = b""

    def text(self) -> str:
        """Return all of it, without escape sequences."""
        return plain(self.path.read_bytes()).decode(errors="replace") if self.path.is_file() else ""

    def tail(self, lines: int = 30) -> str:
        """Return its last lines that are not empty."""
        return "\n".join([line for line in self.text().splitlines() if line.strip()][-lines:])

    def skip(self) -> None:
        """Forget what was printed so far: it belongs to a life that ended."""
        self._offset = self.path.stat().st_size if self.path.is_file() else 0
        self._seam = b""

    def offence(self) -> str | None:
        """Return the first forbidden line printed since the last look, if any."""
        if not self.path.is_file():
            return None
        with self.path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        self._offset += len(new)
        seen = self._seam + new
        self._seam = seen[seen.rfind(b"\n") + 1 :][-self.LINE_LIMIT :]
        return find_forbidden(seen, self._allowed)


def plain(data: bytes) -> bytes:
    """Return what a console shows as lines: no escape sequences, and a carriage return begins a line too."""
    return ESCAPES.sub(b"", data).replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def find_forbidden(data: bytes, allowed: tuple[re.Pattern[bytes], ...] = ()) -> str | None:
    """Return the first line with a forbidden pattern and without an allowed one."""
    for line in plain(data).split(b"\n"):
        if any(pattern.search(line) for pattern in FORBIDDEN):
            if not any(pattern.search(line) for pattern in allowed):
                return line.decode(errors="replace").strip()
    return None
