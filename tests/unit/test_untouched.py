# SPDX-License-Identifier: Apache-2.0
"""What no unit test does to the machine that it runs on, or to others, is refused and remembered."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .support_host import Untouched


def connect(address: str, port: int) -> None:
    with socket.socket() as one:
        one.settimeout(0.1)
        one.connect((address, port))


def send(address: str, port: int) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.sendto(b"", (address, port))


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (lambda: Path("/etc/basalt-was-here").write_text(""), "open /etc/basalt-was-here"),
        (
            lambda: subprocess.run(["/usr/bin/systemctl", "reboot"], check=False),
            "subprocess.Popen /usr/bin/systemctl",
        ),
        (lambda: connect("192.0.2.7", 80), "socket.connect 192.0.2.7"),
        (lambda: send("192.0.2.7", 9), "socket.sendto 192.0.2.7"),
    ],
)
def test_refused(untouched: list[str], what: Callable[[], object], told: str) -> None:
    with pytest.raises(Untouched, match="a unit test may not"):
        what()
    assert untouched == [told]
    untouched.clear()


def test_what_stays_on_the_machine_is_free() -> None:
    with pytest.raises(ConnectionRefusedError):
        connect("127.0.0.9", 9)
