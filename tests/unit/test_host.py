# SPDX-License-Identifier: Apache-2.0
"""A step that is really taken changes nothing of the machine that the tests run on, and fails the test."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot import files
from firstboot.failure import BasaltError
from firstboot.steps.hostname import Hostname
from firstboot.systemd import Systemd

from .support_host import Untouched

NAME = "basalt-unit-test"


@pytest.mark.parametrize(
    "touch",
    [
        lambda: files.write(Path(f"/etc/{NAME}"), "x"),
        lambda: files.directory(Path(f"/run/{NAME}")),
        lambda: asyncio.run(Hostname(NAME).apply(cast(Any, None))),
        lambda: Path(f"/var/lib/{NAME}").mkdir(),
        lambda: os.replace(f"/etc/{NAME}", f"/etc/{NAME}.new"),
        lambda: socket.sethostname(NAME),
        lambda: subprocess.run(["/usr/bin/systemctl", "start", NAME], check=True),
        lambda: asyncio.run(Systemd.connect()),
    ],
    ids=["file", "folder", "step", "state", "rename", "host name", "systemctl", "bus"],
)
def test_the_machine_is_out_of_reach(touch: Callable[[], object], untouched: list[str]) -> None:
    with pytest.raises((Untouched, BasaltError)):
        touch()
    assert untouched, "refused for what it is, and not because it did not work"
    untouched.clear()


def test_what_is_a_tests_own_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "systemctl").write_text("#!/bin/sh\nexit 7\n")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert subprocess.run(["systemctl"], check=False).returncode == 7
    assert files.write(tmp_path / "file", "x")
    assert Path("/etc/passwd").read_bytes()
