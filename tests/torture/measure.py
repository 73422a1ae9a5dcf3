# SPDX-License-Identifier: Apache-2.0
"""Times and memory of both datastores on this machine: ``python3 -m tests.torture.measure``.

First 2,000 writes by eight writers (each object of 1 KiB created and changed once), then 8,000 more.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from .programs import Programs, Torture, built_programs
from .stores import STORES

ROUNDS = 3


def measure(name: str, programs: Programs) -> None:
    """Start a server on an empty folder and print one line of the table for each step."""
    folder = Path(tempfile.mkdtemp(prefix="measure-", dir="/var/tmp"))
    try:
        started = time.monotonic()
        with STORES[name](programs, folder) as store:
            ready = time.monotonic() - started
            torture = Torture(programs.torture, store.endpoint, folder / "journal")
            print(f"{name:<8}{'ready after':>14} {ready:6.2f} s {'':>30}{store.resident():7.0f} MiB")
            for writes, writers in ((2000, 8), (8000, 8), (400, 1)):
                result = torture.bench(writes, writers)
                rate, p50, p99 = (result[key] for key in ("per_second", "p50_ms", "p99_ms"))
                times = f"{rate:6.0f}/s  p50 {p50:5.1f} p99 {p99:6.1f} ms"
                print(
                    f"{name:<8}{writes:>6} by {writers:>4} {times:<38} {store.resident():7.0f} MiB",
                    flush=True,
                )
            size = sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
            print(f"{name:<8}{'disk':>14} {size / 2**20:6.0f} MiB")
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Alternate between the datastores, so that whatever else the machine does hits both."""
    programs = built_programs()
    for _ in range(ROUNDS):
        for name in sorted(STORES):
            measure(name, programs)


if __name__ == "__main__":
    main()
