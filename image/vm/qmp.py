# SPDX-License-Identifier: Apache-2.0
"""QEMU's machine protocol (QMP): one JSON object a line over a unix socket."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from firstboot.failure import BasaltError

FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)")
"""A line of `info usernet`: the host's port and the guest's port of a forward."""


class QmpError(BasaltError):
    """QEMU refused a command or closed the connection."""


class Monitor:
    """A connection to QEMU's monitor; not to be shared by threads."""

    def __init__(self, path: Path, timeout: float = 30) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._stream = self._socket.makefile("r", encoding="utf-8")
        self.events: list[dict[str, Any]] = []
        self._receive("QMP")
        self.execute("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; QEMU goes on."""
        self._stream.close()
        self._socket.close()

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run one command and return its result; raises QmpError when QEMU refuses it."""
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            answer = self._receive("return", "error")
        except OSError as error:
            raise QmpError(f"{command}: QEMU's monitor: {error}") from None
        if "error" in answer:
            raise QmpError(f"{command}: {answer['error'].get('desc')}")
        return answer["return"]

    def human(self, line: str) -> str:
        """Run a command of the human monitor and return what it prints."""
        return str(self.execute("human-monitor-command", **{"command-line": line}))

    def forwards(self) -> dict[int, int]:
        """The guest's forwarded ports and the host's port of each."""
        return parse_forwards(self.human("info usernet"))

    def quit(self) -> None:
        """End QEMU at once, as when the power fails."""
        try:
            self.execute("quit")
        except QmpError:
            pass  # QEMU may be gone before it answers.

    def save(self, path: Path, timeout: float = 120) -> None:
        """Stop the machine and write its memory and devices to a file."""
        self.execute("stop")
        self._set_migration()
        self.execute("migrate", uri=f"file:{path}")
        self._wait_migrated(timeout)

    def restore(self, path: Path, timeout: float = 120, *, run: bool = True) -> None:
        """Load what save() wrote into a machine started with -incoming defer and, with run, go on."""
        self._set_migration()
        self.execute("migrate-incoming", uri=f"file:{path}")
        self._wait_migrated(timeout)
        if run:
            self.execute("cont")

    def _set_migration(self) -> None:
        # mapped-ram gives every page a fixed place in the file: zero pages stay holes, reading is sequential.
        self.execute("migrate-set-capabilities", capabilities=[{"capability": "mapped-ram", "state": True}])

    def _wait_migrated(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            answer = self.execute("query-migrate")
            state = answer.get("status")
            if state == "completed":
                return
            if state in ("failed", "cancelled"):
                raise QmpError(f"the machine's state could not be moved: {answer.get('error-desc', state)}")
            time.sleep(0.05)
        raise QmpError(f"moving the machine's state took longer than {timeout:g} seconds")

    def _receive(self, *keys: str) -> dict[str, Any]:
        while line := self._stream.readline():
            message: dict[str, Any] = json.loads(line)
            if any(key in message for key in keys):
                return message
            self.events.append(message)
        raise QmpError("QEMU closed its monitor")


def parse_forwards(text: str) -> dict[int, int]:
    """Read `info usernet`: guest port to host port."""
    return {int(guest): int(host) for host, guest in FORWARD.findall(text)}
