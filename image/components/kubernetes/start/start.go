// SPDX-License-Identifier: Apache-2.0

// Package start has a program that starts collect its garbage later. What it allocates then is nearly all garbage soon,
// the heap is small, and Go collects in proportion to what stays: a fifth of a control plane's work until it is ready was
// that. With the first collection, and at the latest when the start is over, all is as GOGC has it.
//
// Packages are initialised in the order of their paths, as far as one does not need another; this one's comes before
// those of all libraries, whose own initialisation is a large part of the work.
package start

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"time"
)

// variable has the MiB up to which the memory of a program that starts may grow before anything is collected.
const variable = "BASALT_START_HEAP"

// starting is how long a start may last; the slowest machines need two thirds of it until they are ready.
const starting = 90 * time.Second

// found is what nobody holds: the first collection finds it. Anything smaller may share its place with others.
type found [32]byte

func init() {
	mebibytes, err := strconv.Atoi(os.Getenv(variable))
	if err != nil || mebibytes <= 0 {
		return
	}
	percent, limit := debug.SetGCPercent(-1), debug.SetMemoryLimit(int64(mebibytes)<<20)
	over := sync.OnceFunc(func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	})
	runtime.AddCleanup(new(found), func(over func()) { over() }, over)
	time.AfterFunc(starting, func() {
		over()
		debug.FreeOSMemory()
	})
}
