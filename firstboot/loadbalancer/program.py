# SPDX-License-Identifier: Apache-2.0
"""A program beside this one that reads a configuration: tried before it is used, and told of without a restart.

Its process runs as the same user, so that it can be told by a signal.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from firstboot import files, run

SECONDS = 30.0
"""How long it may take to look at a file: emulated machines are slow."""

log = logging.getLogger(__name__)


@dataclass
class Program:
    """keepalived or BIRD.

    config: what it reads when it starts and when it is told
    tries:  from a file to the command that says whether it accepts that
    pid:    the file in which it keeps the number of its process
    """

    name: str
    config: Path
    tries: Callable[[Path], list[str]]
    pid: Path
    _refused: tuple[str, str] | None = None
    _told: tuple[int, str] | None = None

    def begin(self, text: str) -> None:
        """Give it something to start with, where there is nothing yet."""
        if not self.config.exists():
            files.write(self.config, text, 0o600)

    async def follow(self, text: str) -> str | None:
        """Have it do what the text says; return why it does not, and then it goes on as it was."""
        if self._refused and self._refused[0] == text:
            return self._refused[1]
        if self._now() != text:
            if reason := await self._tried(text):
                self._refused = text, reason
                return reason
            files.write(self.config, text, 0o600)
        self._refused = None
        self._tell(text)
        return None

    def _now(self) -> str | None:
        try:
            return self.config.read_text()
        except FileNotFoundError:
            return None

    async def _tried(self, text: str) -> str | None:
        tried = self.config.with_suffix(".tried")
        tried.write_text(text)
        try:
            await run.run_async(self.tries(tried), timeout=SECONDS)
        except run.RunError as error:
            log.error("%s", error)
            return f"{self.name} does not accept its configuration: {error}"
        finally:
            tried.unlink()
        return None

    def _tell(self, text: str) -> None:
        """Have it read the file again, unless this very process has."""
        try:
            number = int(self.pid.read_text())
        except (FileNotFoundError, ValueError):
            # It has not started yet, and will read the file when it does.
            return
        if self._told != (number, text):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGHUP)
                self._told = number, text
