# SPDX-License-Identifier: Apache-2.0
"""Edits of Kubernetes' modules: API servers are ready sooner, or at all on a slow machine, and queues wake nobody.

Before it is ready for the first time, an API server writes some 140 default roles and bindings, each after a look
whether it is there, one after the other; and it begins a second late. It begins at once, and writes eight at a time.

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
from typing import NamedTuple


class Place(NamedTuple):
    """What is replaced; times: how often the pattern is there."""

    file: str
    pattern: str
    replacement: str
    times: int = 1


ROLES = "pkg/registry/rbac/rest/storage_rbac.go"
PRIORITIES = "pkg/registry/scheduling/rest/storage_scheduling.go"
LATE, AT_ONCE = (
    r"wait\.Poll\(1\*time\.Second, 30\*time\.Second,",
    "wait.PollImmediate(1*time.Second, 5*time.Minute,",
)


def _each(kind: str, name: str) -> str:
    """Return the beginning of a loop over what p has of a kind, eight at a time."""
    return (
        f"\tworkqueue.ParallelizeUntil(context.TODO(), 8, len(p.{kind}), func(piece int) {{\n"
        f"\t\t{name} := p.{kind}[piece]\n"
    )


EDITS = {
    "k8s.io/kubernetes": (
        Place(ROLES, LATE, AT_ONCE),
        Place(PRIORITIES, LATE, AT_ONCE),
        Place(ROLES, r'\t"time"\n', '\t"sync/atomic"\n\t"time"\n'),
        Place(ROLES, r"(\t\"k8s\.io/client-go/util/)retry\"\n", r'\1retry"' + "\n" + r'\1workqueue"' + "\n"),
        Place(
            ROLES, r"\tfor _, clusterRole := range p\.ClusterRoles \{\n", _each("ClusterRoles", "clusterRole")
        ),
        Place(ROLES, r"\t\}(\n\n\t// ensure bootstrap rolebindings are)", r"\t})\1"),
        Place(
            ROLES,
            r"\tfor _, clusterRoleBinding := range p\.ClusterRoleBindings \{\n",
            _each("ClusterRoleBindings", "clusterRoleBinding"),
        ),
        Place(ROLES, r"\t\}(\n\n\t// ensure bootstrap namespaced roles are)", r"\t})\1"),
        Place(ROLES, r"failedReconciliation := false", "var failedReconciliation atomic.Bool"),
        Place(ROLES, r"failedReconciliation = true", "failedReconciliation.Store(true)", times=4),
        Place(ROLES, r"if failedReconciliation \{", "if failedReconciliation.Load() {"),
        Place(
            "pkg/registry/core/rest/storage_core.go",
            r"time\.After\(time\.Minute\)",
            "time.After(5 * time.Minute)",
        ),
        # Whatever went wrong is tried again at once, and not after three minutes.
        Place(
            "pkg/registry/core/service/portallocator/controller/repair.go",
            r"retry\.RetryOnConflict\(retry\.DefaultBackoff,",
            "retry.OnError(retry.DefaultBackoff, func(error) bool { return true },",
        ),
    ),
    "k8s.io/client-go": (
        Place(
            "util/workqueue/queue.go",
            r"const defaultUnfinishedWorkUpdatePeriod = 500 \* time\.Millisecond",
            "const defaultUnfinishedWorkUpdatePeriod = 10 * time.Second",
        ),
    ),
}
"""Module -> what is edited in it."""


def edit(folder: Path) -> None:
    """Edit the copy of a module in this folder; each place is there as it was, or upstream has changed."""
    [module] = re.findall(r"^module (\S+)$", (folder / "go.mod").read_text(), re.MULTILINE)
    for place in EDITS[module]:
        file = folder / place.file
        text, count = re.subn(place.pattern, place.replacement, file.read_text())
        if count != place.times:
            raise SystemExit(
                f"edit.py: {place.pattern!r} is {count} times in {place.file}, expected {place.times}"
            )
        file.write_text(text)


if __name__ == "__main__":
    edit(Path(sys.argv[1]))
