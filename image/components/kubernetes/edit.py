# SPDX-License-Identifier: Apache-2.0
"""Edits of Kubernetes' modules: an API server that starts slowly goes on, and queues wake nobody for a metric.

Three things have to be done within 30 or 60 seconds of an API server's start, or it ends with an error: default
roles, default priorities, and a look at the ports of all Services, which is tried only once in that time. On a machine
so slow that its clients, back all at once, keep it from that for so long, the next start meets the same, and so on.

A work queue looks at its unfinished work twice a second. Only a metric comes of it, of how long work has been under
way; the programs of a control plane have two hundred queues, and each look wakes a thread: most of what an idle
controller manager does. Every ten seconds is enough.
"""

import re
import sys
from pathlib import Path

EDITS = {
    "k8s.io/kubernetes": (
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
        (
            "pkg/registry/core/rest/storage_core.go",
            r"time\.After\(time\.Minute\)",
            "time.After(5 * time.Minute)",
        ),
        # Whatever went wrong is tried again at once, and not after three minutes.
        (
            "pkg/registry/core/service/portallocator/controller/repair.go",
            r"retry\.RetryOnConflict\(retry\.DefaultBackoff,",
            "retry.OnError(retry.DefaultBackoff, func(error) bool { return true },",
        ),
    ),
    "k8s.io/client-go": (
        (
            "util/workqueue/queue.go",
            r"const defaultUnfinishedWorkUpdatePeriod = 500 \* time\.Millisecond",
            "const defaultUnfinishedWorkUpdatePeriod = 10 * time.Second",
        ),
    ),
}
"""Module -> file, pattern and what it is replaced by."""


def edit(folder: Path) -> None:
    """Edit the copy of a module in this folder; each place is there once, or upstream has changed."""
    [module] = re.findall(r"^module (\S+)$", (folder / "go.mod").read_text(), re.MULTILINE)
    for name, pattern, replacement in EDITS[module]:
        text, count = re.subn(pattern, replacement, (folder / name).read_text())
        if count != 1:
            raise SystemExit(f"edit.py: {pattern!r} matches {count} times in {name}, expected once")
        (folder / name).write_text(text)


if __name__ == "__main__":
    edit(Path(sys.argv[1]))
