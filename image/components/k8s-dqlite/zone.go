// SPDX-License-Identifier: Apache-2.0

package main

import "hash/fnv"

// failureDomain returns what dqlite calls a zone: a number, the same on each member for the same name. Members without
// a zone are in one together.
//
// The leader looks every few seconds whether another choice of the three voters would be in more zones. If so, it gives
// a vote to a member of a zone without one, and takes one from a zone with two, for which go-dqlite may need several
// attempts: there are never less than three voters meanwhile.
func failureDomain(zone string) uint64 {
	if zone == "" {
		return 0
	}
	sum := fnv.New64a()
	sum.Write([]byte(zone))
	return sum.Sum64()
}
