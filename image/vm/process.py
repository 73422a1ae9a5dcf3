# SPDX-License-Identifier: Apache-2.0
"""A running QEMU: started from the tools tree, its process id QEMU's own."""

from __future__ import annotations

import shlex
import subprocess
import time
from pathlib import Path

from firstboot.failure import BasaltError
from image.trees import with_tools

from .arguments import Hardware, qemu_arguments
from .qmp import Monitor

QEMU = "qemu-system-x86_64"
START_SECONDS = 30.0


class QemuDied(BasaltError):
    """QEMU ended when nobody asked it to; the message has what it printed last."""


def command(hardware: Hardware) -> list[str]:
    """Return the command that runs the machine, beginning with the door into the tools tree."""
    return with_tools([QEMU, *qemu_arguments(hardware)])


def repeat_command(hardware: Hardware) -> str:
    """Return the command as a person would type it at the top of the checkout."""
    return shlex.join(["python3", "-m", "image.trees", "run", QEMU, *qemu_arguments(hardware)])


def start(hardware: Hardware, log: Path, *, tied: bool) -> subprocess.Popen[bytes]:
    """Start QEMU and return once its monitor answers; log takes what QEMU itself prints.

    tied: QEMU ends when the thread that called this ends, so that an aborted test leaves none behind.
    """
    prefix = ["setpriv", "--pdeathsig", "KILL"] if tied else []
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*prefix, *command(hardware)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=not tied,
        )
    _wait_monitor(process, hardware.monitor, log)
    return process


def _wait_monitor(process: subprocess.Popen[bytes], monitor: Path, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise QemuDied(f"QEMU ended with {process.returncode}: {tail(log)}")
        try:
            Monitor(monitor).close()
            return
        except OSError:
            time.sleep(0.05)
    process.kill()
    raise QemuDied(f"QEMU's monitor did not answer within {START_SECONDS:g} seconds: {tail(log)}")


def tail(path: Path, lines: int = 15) -> str:
    """Return the last lines of a text file, or nothing when there is none."""
    if not path.is_file():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
