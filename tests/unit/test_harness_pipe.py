# SPDX-License-Identifier: Apache-2.0
"""A machine's connection to a port of the host, as QEMU's guestfwd starts it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "vm" / "pipe.py"


def carried(port: int, content: bytes) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-IS", str(PROGRAM), "127.0.0.1", str(port)]
    return subprocess.run(argv, input=content, capture_output=True, timeout=60)


def test_both_ways_and_to_the_end() -> None:
    def loud(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            while piece := connection.recv(4096):
                connection.sendall(piece.upper())
            connection.sendall(b" that is all")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=loud, args=(server,))
        thread.start()
        done = carried(server.getsockname()[1], b"hello" * 50_000)
        thread.join()
    assert (done.returncode, done.stdout) == (0, b"HELLO" * 50_000 + b" that is all")


def test_nobody_there() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        done = carried(closed.getsockname()[1], b"hello")
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
