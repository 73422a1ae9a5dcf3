# SPDX-License-Identifier: Apache-2.0
"""Have work queues look at their unfinished work every ten seconds, and not twice a second.

Only a metric comes of it, of how long work has been under way. The programs of a control plane have two hundred such
queues, and each look wakes a thread: most of what an idle controller manager does.
"""

import re
import sys
from pathlib import Path

QUEUE = "util/workqueue/queue.go"
PERIOD = r"const defaultUnfinishedWorkUpdatePeriod = 500 \* time\.Millisecond"


def edit(module: Path) -> None:
    """Edit the copy of the module in this folder; the place is there once, or upstream has changed."""
    period = "const defaultUnfinishedWorkUpdatePeriod = 10 * time.Second"
    text, count = re.subn(PERIOD, period, (module / QUEUE).read_text())
    if count != 1:
        raise SystemExit(f"quiet.py: the period is set {count} times in {QUEUE}, expected once")
    (module / QUEUE).write_text(text)


if __name__ == "__main__":
    edit(Path(sys.argv[1]))
