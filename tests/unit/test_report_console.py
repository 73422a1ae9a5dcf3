# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from firstboot.failure import BasaltError
from firstboot.report.console import Consoles, Mode, Target, Terminal, targets
from firstboot.report.screen import View
from firstboot.report.status import Phase, Status
from tests.unit.support_web import DEGRADED, READY

STARTING = replace(READY, phase=Phase.STARTING)


class Pty:
    """A real terminal, seen from the side of the person in front of it."""

    def __init__(self) -> None:
        self.person, self.line = os.openpty()
        self.path = Path(os.ttyname(self.line))
        os.set_blocking(self.person, False)

    def read(self) -> str:
        data = b""
        while select.select([self.person], [], [], 0)[0]:
            data += os.read(self.person, 65536)
        return data.decode()

    async def until(self, text: str) -> str:
        seen, deadline = "", time.monotonic() + 10
        while text not in seen:
            assert time.monotonic() < deadline, f"no {text!r} in {seen!r}"
            await asyncio.sleep(0.01)
            seen += self.read()
        return seen


@pytest.fixture
def pty() -> Iterator[Pty]:
    pty = Pty()
    yield pty
    os.close(pty.person)
    os.close(pty.line)


@contextmanager
def terminal(pty: Pty, mode: Mode) -> Iterator[Terminal]:
    opened = Terminal(Target(pty.path, mode))
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("setting", "active", "expected"),
    [
        (None, "tty0 ttyS0\n", ["tty1:screen", "ttyS0:log"]),
        (None, "hvc0 ttyAMA0 tty0", ["tty1:screen", "hvc0:log", "ttyAMA0:log"]),
        (None, None, ["tty1:screen"]),
        ("", "ttyS0", []),
        ("tty1", "ttyS0", ["tty1:screen"]),
        ("tty2, ttyS0:lines hvc0:screen", "ttyS0", ["tty2:screen", "ttyS0:lines", "hvc0:screen"]),
    ],
)
def test_which_consoles(tmp_path: Path, setting: str | None, active: str | None, expected: list[str]) -> None:
    for name in ("tty1", "tty2", "ttyS0", "ttyAMA0", "hvc0"):
        (tmp_path / name).touch()
    if active is not None:
        (tmp_path / "active").write_text(active)
    chosen = targets(setting, tmp_path / "active", tmp_path)
    assert [f"{target.path.name}:{target.mode}" for target in chosen] == expected


def test_consoles_that_do_not_exist_are_left_out(tmp_path: Path) -> None:
    assert targets(None, tmp_path / "active", tmp_path) == ()


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(BasaltError, match="'loud' is no way to write to ttyS0"):
        targets("ttyS0:loud")


def test_a_screen_is_painted_only_when_it_changed(pty: Pty) -> None:
    with terminal(pty, Mode.SCREEN) as screen:
        screen.update(READY, View(), force=False)
        first = pty.read()
        assert "READY" in first and first.count("\n") == 23
        screen.update(replace(READY, updated="2026-11-23T10:00:00Z"), View(), force=False)
        assert pty.read() == ""
        screen.update(READY, View(), force=True)
        assert pty.read() == first
        screen.update(DEGRADED, View(), force=False)
        assert "DEGRADED" in pty.read()


def test_a_screen_uses_the_size_of_its_terminal(pty: Pty) -> None:
    fcntl.ioctl(pty.line, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with terminal(pty, Mode.SCREEN) as screen:
        screen.update(READY, View(), force=False)
        assert pty.read().count("\n") == 39


def test_a_line_gets_changes_once_and_a_block_when_at_rest(pty: Pty) -> None:
    with terminal(pty, Mode.LOG) as line:
        line.told_at = time.monotonic()
        line.waiting.append("basalt: phase starting")
        line.update(STARTING, View(), force=False)
        assert pty.read() == "basalt: phase starting\r\n"
        line.update(READY, View(), force=False)
        text = pty.read()
        assert "==== READY" in text and "\033" not in text
        line.update(replace(READY, updated="2026-11-23T10:00:00Z", timings={}), View(), force=False)
        assert pty.read() == ""
        line.update(DEGRADED, View(), force=False)
        assert "! kubelet  [component-failed]" in pty.read()


def test_lines_only(pty: Pty) -> None:
    with terminal(pty, Mode.LINES) as line:
        line.waiting.append("basalt: phase ready")
        line.update(READY, View(), force=True)
        assert pty.read() == "basalt: phase ready\r\n"


def test_a_terminal_that_takes_nothing_keeps_its_changes(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firstboot.report.console.WRITE_LIMIT", 0.05)
    with terminal(pty, Mode.LINES) as line:
        line.open()
        # Ctrl-S, as somebody may have typed on the line.
        termios.tcflow(pty.line, termios.TCOOFF)
        line.waiting.append("x" * 65536)
        line.waiting.append("basalt: phase ready")
        line.update(READY, View(), force=False)
        assert len(line.waiting) == 2
        termios.tcflow(pty.line, termios.TCOON)


def test_the_writer_tells_every_change_and_answers_keys(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firstboot.report.console.PACE", 0.01)

    async def watch() -> None:
        consoles = Consoles([Target(pty.path, Mode.LOG)], uptime=lambda: 41.0)
        consoles.show(Status())
        consoles.show(STARTING)
        consoles.show(READY)
        writer = asyncio.create_task(consoles.run())
        seen = await pty.until("=" * 80 + "\r\n")
        lines = [line for line in seen.splitlines() if line.startswith("basalt: phase")]
        assert lines == [
            f"basalt: phase {phase} (41.0 s after kernel start)"
            for phase in ("waiting-for-document", "starting", "ready")
        ]
        os.write(pty.person, b"\n")
        again = await pty.until("=" * 80 + "\r\n")
        assert "==== READY" in again and "basalt: phase" not in again
        consoles.show(READY)
        consoles.show(DEGRADED)
        assert "basalt: phase degraded" in await pty.until("basalt: failure")
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)

    asyncio.run(watch())


def test_a_missing_terminal_does_not_hold_up_the_others(pty: Pty, tmp_path: Path) -> None:
    async def watch() -> None:
        consoles = Consoles([Target(tmp_path / "ttyS9", Mode.LOG), Target(pty.path, Mode.SCREEN)])
        consoles.show(READY)
        writer = asyncio.create_task(consoles.run())
        await pty.until("READY")
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)

    asyncio.run(watch())


def test_what_somebody_types_is_not_echoed(pty: Pty) -> None:
    with terminal(pty, Mode.SCREEN) as screen:
        screen.open()
        os.write(pty.person, b"typed")
        assert pty.read() == ""
