// SPDX-License-Identifier: Apache-2.0

package main

// #include <malloc.h>
import "C"

import (
	"os"
	"runtime"
)

// Sizes for glibc's allocator, in bytes. By its defaults it gives every free 128 KiB at the end of the dqlite thread's
// heap back to the kernel and soon asks for them again: several calls and a dozen page faults for each write.
const (
	trimThreshold = 4 << 20
	topPad        = 512 << 10
	mmapThreshold = 1 << 20
)

// beThrifty makes the two runtimes of this process spend less of the processor on themselves.
func beThrifty() {
	C.mallopt(C.M_TRIM_THRESHOLD, trimThreshold)
	C.mallopt(C.M_TOP_PAD, topPad)
	C.mallopt(C.M_MMAP_THRESHOLD, mmapThreshold)
	// The dqlite node has a thread of its own beside Go's, and all writes go one after the other: more of Go's threads
	// mostly wake each other.
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(1, runtime.NumCPU()/2))
	}
}
