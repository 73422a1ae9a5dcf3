// SPDX-License-Identifier: Apache-2.0

// Package start has a program that starts collect its garbage less often. What it allocates then is nearly all garbage
// soon, the heap is small, and Go collects in proportion to what stays: a fifth of a control plane's work until it is
// ready was that. Afterwards the heap counts as what it is, and what was free in it goes back to the system.
//
// Packages are initialised in the order of their paths, as far as one does not need another; this one's comes before
// those of all libraries, whose own initialisation is a large part of the work.
package start

import (
	"os"
	"runtime/debug"
	"strconv"
	"time"
)

// variable has the MiB by which the heap counts as larger while a program starts.
const variable = "BASALT_START_HEAP"

// starting is how long that is; the slowest machines need two thirds of it until they are ready.
const starting = 90 * time.Second

// slack is never written to, so it takes no memory; the collector takes it for a part of the heap.
var slack []byte

func init() {
	mebibytes, err := strconv.Atoi(os.Getenv(variable))
	if err != nil || mebibytes <= 0 {
		return
	}
	slack = make([]byte, mebibytes<<20)
	time.AfterFunc(starting, func() {
		slack = nil
		debug.FreeOSMemory()
	})
}
