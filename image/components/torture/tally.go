// SPDX-License-Identifier: Apache-2.0

package main

import (
	"sort"
	"sync"
	"time"
)

// tally counts outcomes and times.
type tally struct {
	started time.Time
	mutex   sync.Mutex
	counts  map[string]int
	times   []time.Duration
	last    time.Time
	gap     time.Duration
}

func (t *tally) add(outcome string, started, ended time.Time) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.counts == nil {
		t.counts, t.last = map[string]int{}, t.started
	}
	t.counts[outcome]++
	if outcome != made {
		return
	}
	t.times = append(t.times, ended.Sub(started))
	if ended.After(t.last) {
		t.gap = max(t.gap, ended.Sub(t.last))
		t.last = ended
	}
}

func (t *tally) result() WriteResult {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	seconds := time.Since(t.started).Seconds()
	sort.Slice(t.times, func(i, j int) bool { return t.times[i] < t.times[j] })
	return WriteResult{
		Made: t.counts[made], Conflicts: t.counts[conflict], Unknown: t.counts[unknown],
		Seconds: seconds, PerSecond: float64(t.counts[made]) / seconds,
		P50: t.percentile(50), P99: t.percentile(99), LongestGap: t.gap.Seconds(),
	}
}

func (t *tally) percentile(percent int) float64 {
	if len(t.times) == 0 {
		return 0
	}
	at := min(len(t.times)*percent/100, len(t.times)-1)
	return float64(t.times[at]) / float64(time.Millisecond)
}
