# SPDX-License-Identifier: Apache-2.0
"""What is read from processes and told to the manager."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from firstboot.milestones import Milestones
from firstboot.systemd import notify, revision_of


@pytest.mark.parametrize(
    ("environment", "revision"),
    [
        (b"PATH=/usr/bin\0BASALT_REVISION=abc123\0", "abc123"),
        (b"PATH=/usr/bin\0NOT_BASALT_REVISION=abc123\0", None),
        (b"", None),
        (None, None),
    ],
)
def test_the_revision_of_a_process(tmp_path: Path, environment: bytes | None, revision: str | None) -> None:
    if environment is not None:
        (tmp_path / "7").mkdir()
        (tmp_path / "7/environ").write_bytes(environment)
    assert revision_of(7, tmp_path) == revision


def test_the_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(address))
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        notify("READY=1")
        assert channel.recv(100) == b"READY=1"


def test_milestones_are_taken_once_and_outlive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "milestones.json"
    first = Milestones(path)
    first.mark("agent")
    taken = first.reached["agent"]
    again = Milestones(path)
    again.mark("agent")
    again.mark("ready")
    assert again.reached["agent"] == taken
    assert again.reached["ready"] >= taken
