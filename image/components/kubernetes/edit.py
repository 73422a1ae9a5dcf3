# SPDX-License-Identifier: Apache-2.0
"""Let an API server that starts slowly go on, instead of ending itself.

Three things have to be done within 30 or 60 seconds of its start, or it ends with an error: default roles, default
priorities, and a look at the ports of all Services, which is tried only once in that time. On a machine so slow that
its clients, back all at once, keep it from that for so long, the next start meets the same, and so on for ever.
"""

import re
import sys
from pathlib import Path

EDITS = (
    (
        "pkg/registry/rbac/rest/storage_rbac.go",
        r"wait\.Poll\(1\*time\.Second, 30\*time\.Second,",
        "wait.Poll(1*time.Second, 5*time.Minute,",
    ),
    (
        "pkg/registry/scheduling/rest/storage_scheduling.go",
        r"wait\.Poll\(1\*time\.Second, 30\*time\.Second,",
        "wait.Poll(1*time.Second, 5*time.Minute,",
    ),
    ("pkg/registry/core/rest/storage_core.go", r"time\.After\(time\.Minute\)", "time.After(5 * time.Minute)"),
    # Whatever went wrong is tried again at once, and not after three minutes.
    (
        "pkg/registry/core/service/portallocator/controller/repair.go",
        r"retry\.RetryOnConflict\(retry\.DefaultBackoff,",
        "retry.OnError(retry.DefaultBackoff, func(error) bool { return true },",
    ),
)


def edit(module: Path) -> None:
    """Edit the copy of the module in this folder; each place is there once, or upstream has changed."""
    for name, pattern, replacement in EDITS:
        text, count = re.subn(pattern, replacement, (module / name).read_text())
        if count != 1:
            raise SystemExit(f"edit.py: {pattern!r} matches {count} times in {name}, expected once")
        (module / name).write_text(text)


if __name__ == "__main__":
    edit(Path(sys.argv[1]))
