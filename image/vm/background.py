# SPDX-License-Identifier: Apache-2.0
"""A machine that outlives the command which started it: a folder with its disks, and what was written down."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from image.vm import process
from image.vm.arguments import Hardware
from image.vm.qmp import Monitor, QmpError

STATE = "machine.json"
STOP_SECONDS = 120.0


@dataclass(frozen=True)
class State:
    """What is written down about a machine: process id, image, user-data, ports (guest to host)."""

    pid: int
    image: str
    user_data: str
    accelerator: str
    ports: dict[str, int]

    def port(self, guest: int) -> int:
        """Return the host's port for one of the guest's."""
        return self.ports[str(guest)]


@dataclass(frozen=True)
class Background:
    """The machine of a folder."""

    folder: Path

    @property
    def state(self) -> State | None:
        """What was written down, or None where there is no machine."""
        path = self.folder / STATE
        return State(**json.loads(path.read_text())) if path.is_file() else None

    @property
    def running(self) -> bool:
        """Whether the process lives and is still the machine, not a stranger with the same number."""
        state = self.state
        try:
            arguments = Path(f"/proc/{state.pid}/cmdline").read_bytes() if state else b""
        except OSError:
            return False
        return os.fsencode(self.folder / "disk.qcow2") in arguments

    def start(self, hardware: Hardware, image: str, user_data: str, ports: dict[int, int]) -> State:
        """Start the machine and write down what it is."""
        (self.folder / "monitor").unlink(missing_ok=True)
        write(self.folder / "command.txt", process.repeat_command(hardware) + "\n")
        qemu = process.start(hardware, self.folder / "qemu.log", tied=False)
        named = {str(guest): used for guest, used in ports.items()}
        state = State(qemu.pid, image, user_data, hardware.accelerator.value, named)
        write(self.folder / STATE, json.dumps(asdict(state), indent=2) + "\n")
        return state

    def press_power_button(self) -> None:
        """Ask the machine to shut down."""
        with suppress(OSError, QmpError), Monitor(self.folder / "monitor") as monitor:
            monitor.execute("system_powerdown")

    def wait_off(self, timeout: float = STOP_SECONDS) -> bool:
        """Wait until the machine is off; take its power away when time is over. Return whether it went by itself."""
        if self._ended(timeout):
            return True
        if state := self.state:
            with suppress(ProcessLookupError):
                os.kill(state.pid, signal.SIGKILL)
        self._ended(10)
        return False

    def _ended(self, timeout: float) -> bool:
        end = time.monotonic() + timeout
        while self.running:
            if time.monotonic() > end:
                return False
            time.sleep(0.2)
        return True


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file in one step."""
    partial = path.with_name(f".{path.name}.partial")
    partial.touch(mode)
    partial.chmod(mode)
    partial.write_text(text)
    partial.replace(path)
