#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Inside the machine: memory as a whole, then of each control group with processes, in bytes, then of each process, in KiB.

free -b | grep Mem:
find /sys/fs/cgroup -name cgroup.procs | while read -r processes; do
    group=${processes%/cgroup.procs}
    # The root group has no memory of its own and the kernel's threads as processes.
    [ -e "$group/memory.current" ] && [ -n "$(cat "$processes")" ] || continue
    echo "cgroup ${group#/sys/fs/cgroup} $(cat "$group/memory.current") $(sed -n 's/^anon //p' "$group/memory.stat")"
    while read -r process; do
        # One that ended meanwhile has nothing to tell.
        awk -v name="$(cat "/proc/$process/comm")" '
            /^Rss:/ { rss = $2 } /^Pss:/ { pss = $2 } END { gsub(" ", "_", name); print "process", name, rss, pss }
        ' "/proc/$process/smaps_rollup"
    done <"$processes" 2>/dev/null
done
