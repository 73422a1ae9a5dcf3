# SPDX-License-Identifier: Apache-2.0
"""A network among machines: a small learning switch of unix sockets that can be cut in parts.

python3 -m image.vm.switch FOLDER NAME...   serve a socket FOLDER/NAME.port for each machine until SIGTERM
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from firstboot.failure import BasaltError

LENGTH = struct.Struct(">I")
"""QEMU's stream sockets put a frame's length in front of it."""
MAC_BYTES = 6
BLOCK = 1 << 18
QUEUE_LIMIT = 1 << 20
"""Bytes waiting for a port that does not read; what comes after them is lost, as on any switch."""


class Port:
    """One machine's end: what it sent but is no whole frame yet, and what waits to be read by it."""

    def __init__(self, name: str, connection: socket.socket) -> None:
        self.name = name
        self.connection = connection
        self.received = bytearray()
        self.queue = bytearray()

    def frames(self) -> Iterable[bytes]:
        """Take the whole frames out of what was received."""
        while len(self.received) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self.received)
            end = LENGTH.size + length
            if len(self.received) < end:
                return
            yield bytes(self.received[LENGTH.size : end])
            del self.received[:end]


class Switch:
    """Serves one socket a machine, in a thread of its own.

    A machine's frames reach all machines of its part; at first all are in one part.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._selector = selectors.DefaultSelector()
        self._ports: dict[str, Port] = {}
        self._stations: dict[bytes, str] = {}
        self._parts: tuple[frozenset[str], ...] = ()
        self._lock = threading.Lock()
        self._wake, self._waker = socket.socketpair()
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="switch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._waker.send(b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
        self._waker.close()

    def connect(self, name: str) -> Path:
        """Open a port for a machine and return the socket that its QEMU connects to."""
        path = self._folder / f"{name}.port"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen(1)
        with self._lock:
            self._selector.register(listener, selectors.EVENT_READ, name)
        self._waker.send(b"x")
        return path

    def divide(self, *parts: Iterable[str]) -> None:
        """Cut the network into parts that do not hear each other; who is in none is alone."""
        with self._lock:
            self._parts = tuple(frozenset(part) for part in parts)

    def heal(self) -> None:
        """Make the network one again."""
        with self._lock:
            self._parts = ()

    def _serve(self) -> None:
        while not self._closing:
            for key, events in self._selector.select():
                with self._lock:
                    self._handle(key, events)

    def _handle(self, key: selectors.SelectorKey, events: int) -> None:
        assert isinstance(key.fileobj, socket.socket)
        if key.data is None:
            self._wake.recv(BLOCK)
        elif isinstance(key.data, str):
            self._accept(key.data, key.fileobj)
        else:
            if events & selectors.EVENT_WRITE:
                self._flush(key.data)
            if events & selectors.EVENT_READ:
                self._read(key.data)

    def _accept(self, name: str, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.setblocking(False)
        if former := self._ports.get(name):
            self._drop(former)
        self._ports[name] = Port(name, connection)
        self._selector.register(connection, selectors.EVENT_READ, self._ports[name])

    def _read(self, port: Port) -> None:
        try:
            data = port.connection.recv(BLOCK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(port)
            return
        port.received += data
        for frame in port.frames():
            self._forward(port, frame)

    def _forward(self, source: Port, frame: bytes) -> None:
        target, sender = frame[:MAC_BYTES], frame[MAC_BYTES : 2 * MAC_BYTES]
        self._stations[sender] = source.name
        known = self._stations.get(target)
        for name in [known] if known else list(self._ports):
            port = self._ports.get(name)
            if port and name != source.name and connected(self._parts, source.name, name):
                self._send(port, frame)

    def _send(self, port: Port, frame: bytes) -> None:
        if len(port.queue) > QUEUE_LIMIT:
            return
        port.queue += LENGTH.pack(len(frame)) + frame
        self._flush(port)

    def _flush(self, port: Port) -> None:
        try:
            sent = port.connection.send(port.queue) if port.queue else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(port)
            return
        del port.queue[:sent]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if port.queue else 0)
        self._selector.modify(port.connection, wanted, port)

    def _drop(self, port: Port) -> None:
        if self._ports.get(port.name) is port:
            del self._ports[port.name]
            self._selector.unregister(port.connection)
            port.connection.close()


def connected(parts: tuple[frozenset[str], ...], one: str, other: str) -> bool:
    """Whether two machines hear each other in a network cut into these parts (none: not cut at all)."""
    return not parts or any(one in part and other in part for part in parts)


START_SECONDS = 10.0


def background(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Return the sockets of a switch that runs in a process of its own, started if it does not run yet."""
    sockets = {name: folder / f"{name}.port" for name in names}
    if running(folder) is None:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.port"):
            path.unlink()
        command = [sys.executable, "-m", "image.vm.switch", str(folder), *names]
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        (folder / "pid").write_text(str(process.pid))
        end = time.monotonic() + START_SECONDS
        while not all(path.is_socket() for path in sockets.values()):
            if process.poll() is not None or time.monotonic() > end:
                raise BasaltError(f"the network among the machines did not start; see {folder / 'log'}")
            time.sleep(0.05)
    return sockets


def running(folder: Path) -> int | None:
    """Return the process of the folder's switch, None when there is none or its number is a stranger's now."""
    try:
        number = int((folder / "pid").read_text())
        arguments = Path(f"/proc/{number}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return number if os.fsencode(folder) in arguments.split(b"\0") else None


def end(folder: Path) -> None:
    """End the folder's switch."""
    if number := running(folder):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGTERM)


def main(arguments: Sequence[str]) -> int:
    """Run the command line described above."""
    folder, *names = arguments
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with Switch(Path(folder)) as switch:
        for name in names:
            switch.connect(name)
        stop.wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
