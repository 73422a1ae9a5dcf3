# SPDX-License-Identifier: Apache-2.0
"""KVM only where a kernel really starts under it.

A virtual machine's own /dev/kvm may exist and open, and every stock kernel die under it all the same: the
only answer worth having is that of the image's kernel. It is kept for as long as the host stays up.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import tempfile
import time
from pathlib import Path

from image import host
from image.trees import with_tools

from .arguments import Accelerator
from .disks import FIRMWARE_CODE

KVM = Path("/dev/kvm")
PROBE_SECONDS = 25.0
STARTED = re.compile(rb"Run /init as init process|systemd\[1\]")
DIED = re.compile(rb"KVM internal error|Kernel panic|KVM: entry failed|Could not access KVM")


def detect(kernel: Path) -> Accelerator:
    """Return what machines should run on; kernel: a kernel or unified kernel image to try KVM with."""
    if not os.access(KVM, os.R_OK | os.W_OK):
        return Accelerator.TCG
    memory = host.cache() / "vm" / f"accelerator-{_host_key()}.json"
    if memory.is_file():
        return Accelerator(json.loads(memory.read_text())["accelerator"])
    found = Accelerator.KVM if _boots(kernel) else Accelerator.TCG
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_text(json.dumps({"accelerator": found.value}))
    return found


def _host_key() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return hashlib.sha256(f"{platform.release()} {boot}".encode()).hexdigest()[:16]


def probe_arguments(kernel: Path) -> list[str]:
    """Return QEMU's arguments for a start without disk or network that can only get as far as the initrd."""
    return [
        *("-machine", "q35", *Accelerator.KVM.arguments, "-smp", "2", "-m", "1024"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"),
        *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE_CODE}"),
        *("-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"),
    ]


def _boots(kernel: Path) -> bool:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            with_tools(["qemu-system-x86_64", *probe_arguments(kernel)]),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            return _watch(process, output.fileno())
        finally:
            process.kill()
            process.wait()


def _watch(process: subprocess.Popen[bytes], output: int) -> bool:
    end = time.monotonic() + PROBE_SECONDS
    while time.monotonic() < end:
        ended = process.poll() is not None
        seen = os.pread(output, 4 << 20, 0)
        if STARTED.search(seen):
            return True
        if ended or DIED.search(seen):
            return False
        time.sleep(0.2)
    return False
