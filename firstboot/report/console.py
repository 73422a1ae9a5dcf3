# SPDX-License-Identifier: Apache-2.0
"""Writes the status to the machine's consoles.

A display (tty1) shows one calm screen, painted anew when its text changes and every REDRAW seconds, because
the kernel may have written over it. A serial line may be a person or a file, so it is never addressed by
cursor: it gets one plain line for each change, and a block with everything whenever the node comes to rest
in a new state. Whoever comes later presses Enter for a fresh block.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import select
import termios
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from firstboot.failure import BasaltError
from firstboot.report import screen
from firstboot.report.screen import View
from firstboot.report.status import Status

log = logging.getLogger(__name__)

VARIABLE = "BASALT_CONSOLES"
ACTIVE = Path("/sys/class/tty/console/active")
REDRAW = 30.0
"""Seconds after which a screen is painted although nothing changed."""
PACE = 1.0
"""Least seconds between two paintings."""
PATIENCE = 60.0
"""Seconds between two blocks on a line while the node is still on its way."""
WRITE_LIMIT = 5.0
"""Seconds a terminal may take to accept its text; a stopped one must not hold up the others."""
PENDING = 200
"""Changes remembered for a terminal that does not accept them."""


class Mode(StrEnum):
    """What a terminal gets."""

    SCREEN = "screen"
    LOG = "log"
    LINES = "lines"

    @property
    def has_lines(self) -> bool:
        """Whether changes appear as lines."""
        return self is not Mode.SCREEN


@dataclass(frozen=True)
class Target:
    """A terminal and what it gets."""

    path: Path
    mode: Mode


def targets(setting: str | None, active: Path = ACTIVE, dev: Path = Path("/dev")) -> tuple[Target, ...]:
    """Return the consoles to write to.

    setting: value of $BASALT_CONSOLES, names with an optional mode, e.g. "tty1 ttyS0:lines"; the empty string
             means none, and None means tty1 and every other console of the kernel.
    Raises BasaltError for an unknown mode.
    """
    if setting is not None:
        return tuple(_target(name, dev) for name in setting.replace(",", " ").split())
    try:
        kernel = active.read_text(encoding="ascii").split()
    except OSError:
        kernel = []
    names = ["tty1", *(name for name in kernel if not _is_display(name))]
    return tuple(_target(name, dev) for name in names if (dev / name).exists())


def _target(name: str, dev: Path) -> Target:
    name, _, mode = name.partition(":")
    default = Mode.SCREEN if _is_display(name) else Mode.LOG
    try:
        return Target(dev / name, Mode(mode) if mode else default)
    except ValueError:
        raise BasaltError(
            f"{VARIABLE}: {mode!r} is no way to write to {name}", f"Use one of {', '.join(Mode)}."
        ) from None


def _is_display(name: str) -> bool:
    return re.fullmatch(r"tty\d+", name) is not None


class Terminal:
    """One console: opened when first needed, and again after an error."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.fd: int | None = None
        self.gone = False
        self.waiting: deque[str] = deque(maxlen=PENDING)
        self.painted: list[str] = []
        self.told: Status | None = None
        self.told_at = float("-inf")

    def open(self) -> bool:
        """Open the terminal if it is not open; return whether it is open now."""
        if self.fd is None:
            try:
                # O_NOCTTY: the agent must not be hung up together with somebody's terminal.
                self.fd = os.open(self.target.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                log.debug("%s cannot be opened: %s", self.target.path, error.strerror)
                return False
            self.painted = []
            _prepare(self.fd)
        return True

    def close(self) -> None:
        """Close the terminal; update() opens it again."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
        self.gone = False

    def view(self, view: View) -> View:
        """Return the view with this terminal's size and abilities; lines that tell no size have 80 x 24."""
        width, height = _size(self.fd)
        return replace(view, width=width, height=height, colour=self.target.mode is Mode.SCREEN)

    def update(self, status: Status, view: View, *, force: bool) -> None:
        """Bring the terminal up to date; force also repeats what it should be showing already."""
        if self.gone or not self.open():
            return
        if self.target.mode is Mode.SCREEN:
            self._paint(screen.screen(status, self.view(view)), force=force)
        else:
            self._tell(status, view, force=force)

    def _paint(self, lines: list[str], *, force: bool) -> None:
        if lines != self.painted or force:
            # Every line is overwritten in place: clearing the whole screen first would flicker.
            text = "\033[?25l\033[H" + "\n".join(f"{line}\033[K" for line in lines) + "\033[J"
            self.painted = lines if self._write(text) else []

    def _tell(self, status: Status, view: View, *, force: bool) -> None:
        while self.waiting:
            line = self.waiting.popleft()
            if not self._write(f"{line}\n"):
                self.waiting.appendleft(line)
                return
        if self.target.mode is Mode.LOG and (force or self._news(status)):
            lines = screen.block(status, self.view(view))
            if self._write("\n".join(["", *lines, ""])):
                self.told, self.told_at = status, time.monotonic()

    def _news(self, status: Status) -> bool:
        if self.told is not None and _substance(status) == _substance(self.told):
            return False
        return status.phase.settled or time.monotonic() - self.told_at >= PATIENCE

    def _write(self, text: str) -> bool:
        """Write the text; return False when the terminal does not take it in time or has gone."""
        assert self.fd is not None
        data = memoryview(text.encode("utf-8", "replace"))
        deadline = time.monotonic() + WRITE_LIMIT
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        try:
            while data:
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    return False
                with suppress(BlockingIOError):
                    data = data[os.write(self.fd, data) :]
        except OSError as error:
            log.debug("%s: %s", self.target.path, error.strerror)
            self.gone = True
            return False
        return True


class Consoles:
    """All consoles of the machine: show() may be called at any time, run() writes."""

    def __init__(
        self,
        chosen: Sequence[Target],
        *,
        status_port: int = screen.STATUS_PORT,
        uptime: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self.status_port = status_port
        self._uptime = uptime
        self._terminals = [Terminal(target) for target in chosen]
        self._status: Status | None = None
        self._changed = asyncio.Event()
        self._asked: set[Terminal] = set()
        self._watched: dict[int, Terminal] = {}
        self._writing = threading.Lock()
        self._closed = False

    def show(self, status: Status) -> None:
        """Take a new status; every change from the one before will appear, even if a newer status follows."""
        if status == self._status:
            return
        lines = screen.changes(self._status, status, self._uptime())
        for terminal in self._terminals:
            if terminal.target.mode.has_lines:
                terminal.waiting.extend(lines)
        self._status = status
        self._changed.set()

    async def run(self) -> None:
        """Write until cancelled; at the end the terminals are closed for good."""
        loop = asyncio.get_running_loop()
        redraw = loop.time()
        try:
            while True:
                due = loop.time() >= redraw
                if due:
                    redraw = loop.time() + REDRAW
                # A serial line may be slow, so the event loop does not write itself.
                await asyncio.to_thread(self._update, due)
                self._tidy()
                self._listen()
                await asyncio.sleep(PACE)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), max(0.0, redraw - loop.time()))
                self._changed.clear()
        finally:
            with self._writing:
                self._closed = True
                for terminal in self._terminals:
                    terminal.gone = True
                self._tidy()

    def _update(self, redraw: bool) -> None:
        with self._writing:
            status = self._status
            if status is None or self._closed:
                return
            view = View(uptime=self._uptime(), status_port=self.status_port)
            asked, self._asked = self._asked, set()
            for terminal in self._terminals:
                periodic = redraw and terminal.target.mode is Mode.SCREEN
                terminal.update(status, view, force=periodic or terminal in asked)

    def _tidy(self) -> None:
        """Close terminals that have gone; only here, where the event loop can forget them too."""
        for terminal in self._terminals:
            if terminal.gone and terminal.fd is not None:
                if self._watched.pop(terminal.fd, None):
                    asyncio.get_running_loop().remove_reader(terminal.fd)
                terminal.close()

    def _listen(self) -> None:
        """Listen for keys on every open terminal."""
        for terminal in self._terminals:
            if terminal.fd is not None and terminal.fd not in self._watched:
                # What is no terminal, e.g. a plain file, cannot be listened to.
                with suppress(OSError):
                    asyncio.get_running_loop().add_reader(terminal.fd, self._key, terminal.fd, terminal)
                    self._watched[terminal.fd] = terminal

    def _key(self, fd: int, terminal: Terminal) -> None:
        """Answer a key by a fresh picture; a terminal at its end is opened anew with the next one."""
        try:
            typed = os.read(fd, 4096)
        except BlockingIOError:
            return
        except OSError:
            typed = b""
        if typed:
            self._asked.add(terminal)
            self._changed.set()
        else:
            asyncio.get_running_loop().remove_reader(fd)
            del self._watched[fd]
            terminal.gone = True


def _substance(status: Status) -> Status:
    """Return the status without what changes all the time."""
    return replace(status, updated="", timings={})


def _size(fd: int | None) -> tuple[int, int]:
    if fd is not None:
        with suppress(OSError):
            size = os.get_terminal_size(fd)
            if size.columns >= 40 and size.lines >= 10:
                return size.columns, size.lines
    return 80, 24


def _prepare(fd: int) -> None:
    """Make every line begin at the left, and keep what somebody types out of the picture."""
    with suppress(termios.error):
        attributes = termios.tcgetattr(fd)
        attributes[1] |= termios.OPOST | termios.ONLCR
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(fd, termios.TCSANOW, attributes)
