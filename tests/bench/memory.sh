#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Inside the node: memory as a whole, then of each control group with processes, in bytes, then of each process, in KiB.

free -b | grep Mem:
find /sys/fs/cgroup -name cgroup.procs | while read -r processes; do
    group=${processes%/cgroup.procs}
    # The root group has no memory of its own and the kernel's threads as processes.
    [ "$group" != /sys/fs/cgroup ] && [ -n "$(cat "$processes")" ] || continue
    current=0 anon=0
    if [ -e "$group/memory.current" ]; then
        current=$(cat "$group/memory.current") anon=$(sed -n 's/^anon //p' "$group/memory.stat")
    fi
    echo "cgroup ${group#/sys/fs/cgroup} $current $anon"
    while read -r process; do
        # One that ended meanwhile has nothing to tell.
        awk -v name="$(cat "/proc/$process/comm")" '
            /^Rss:/ { rss = $2 } /^Pss:/ { pss = $2 } END { gsub(" ", "_", name); print "process", name, rss, pss }
        ' "/proc/$process/smaps_rollup"
    done <"$processes" 2>/dev/null
done
