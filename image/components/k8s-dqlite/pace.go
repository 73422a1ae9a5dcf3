// SPDX-License-Identifier: Apache-2.0

package main

import "time"

// pace is how often this member looks around without being asked to.
type pace struct {
	poll    time.Duration // between two looks for revisions other members added; own ones are announced
	roles   time.Duration // between two looks at who is a voter
	latency time.Duration // raft's unit: a leader's heartbeat is 1.5 of it, an election begins after 15
}

// Every look wakes several threads, which is most of what an idle store costs. A member without certificates has no
// door for others (see Network) and never will have, so nobody else writes and there is nobody to watch. What remains:
// kine's first poll and one after a failed one wait for the next, and after an error of the disk raft elects anew.
var (
	alonePace    = pace{poll: time.Second, roles: 5 * time.Minute, latency: 200 * time.Millisecond}
	amongMembers = pace{poll: 250 * time.Millisecond, roles: 5 * time.Second}
)

func (s Settings) pace() pace {
	if !s.Secured() {
		return pace{alonePace.poll, alonePace.roles, max(alonePace.latency, s.Latency)}
	}
	return pace{amongMembers.poll, amongMembers.roles, s.Latency}
}
