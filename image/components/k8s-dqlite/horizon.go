// SPDX-License-Identifier: Apache-2.0

package main

import "sync/atomic"

// horizon is the newest revision this process has seen in any way, before anybody else learns of it from here: so it
// is never behind an acknowledged write, an answered read or a delivered event.
type horizon struct{ revision atomic.Int64 }

func (h *horizon) seen(revision int64) {
	for {
		newest := h.revision.Load()
		if revision <= newest || h.revision.CompareAndSwap(newest, revision) {
			return
		}
	}
}
