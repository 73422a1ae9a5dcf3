# SPDX-License-Identifier: Apache-2.0
"""Logging that the journal understands: a priority in front of each line, one line per message part."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.NOTSET, 7),
)
"""Lowest level of Python's logging and the syslog priority it stands for, see sd-daemon(3)."""


class JournalFormatter(logging.Formatter):
    """Puts ``<priority>`` before every line, because the journal takes each line for a message of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, its traceback included, as prefixed lines."""
        prefix = f"<{priority(record.levelno)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines() or [""])


def priority(level: int) -> int:
    """Return the syslog priority of a logging level."""
    return next(value for lowest, value in PRIORITIES if level >= lowest)


def to_journal(stream: TextIO, environment: str | None) -> bool:
    """Whether the stream is connected to the journal; environment is $JOURNAL_STREAM ("device:inode")."""
    if not environment:
        return False
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment == f"{stat.st_dev}:{stat.st_ino}"


def setup(*, verbose: bool = False, stream: TextIO | None = None) -> None:
    """Log to standard error: with priorities into the journal, with the logger's name for a person.

    verbose: also show every program that is run. Arguments of programs hold no secrets (see firstboot.run),
    and nothing else of the package logs contents of files.
    """
    out = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(out)
    if to_journal(out, os.environ.get("JOURNAL_STREAM")):
        handler.setFormatter(JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(levelname).1s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    # Chatty below warnings, and our own messages say what matters.
    for name in ("aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
