// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"runtime/debug"
	"strconv"
	"time"
)

// startHeap is the variable with the MiB by which a program's heap counts as larger while it starts.
const startHeap = "BASALT_START_HEAP"

// starting is how long that is; a boot on a slow machine takes two minutes.
const starting = 3 * time.Minute

// slack is never written to, so it takes no memory; the collector takes it for a part of the heap.
var slack []byte

// collectLater has a program that starts collect less often. Its heap is small, most of what it allocates is garbage
// soon, and Go collects in proportion to what stays: a fifth of a control plane's work until it is ready was that.
// Afterwards the heap is what it is, and what was free in it goes back to the system.
func collectLater() {
	mebibytes, err := strconv.Atoi(os.Getenv(startHeap))
	if err != nil || mebibytes <= 0 {
		return
	}
	slack = make([]byte, mebibytes<<20)
	time.AfterFunc(starting, func() {
		slack = nil
		debug.FreeOSMemory()
	})
}
