// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/canonical/go-dqlite/v2/client"
)

func TestEachZoneGetsAVoterAndALostOnesVoteGoesElsewhere(t *testing.T) {
	// The first three vote at first, and two of them are in one zone.
	addresses := []string{"127.0.0.21:9393", "127.0.0.22:9393", "127.0.0.23:9393", "127.0.0.24:9393", "127.0.0.25:9393"}
	zones := map[string]string{
		addresses[0]: "rack-1", addresses[1]: "rack-1", addresses[2]: "rack-2", addresses[3]: "rack-2", addresses[4]: "rack-3",
	}
	members := startInZones(t, zones, addresses...)
	waitFor(t, members[addresses[0]], "a voter in each of three zones", func(found []client.NodeInfo) bool {
		return len(found) == 5 && voters(found) == 3 && len(zonesWithVoters(found, zones)) == 3
	})

	alone := addresses[4]
	if err := members[alone].Close(); err != nil {
		t.Fatal(err)
	}
	delete(members, alone)
	waitFor(t, members[addresses[0]], "three voters in the zones that are left", func(found []client.NodeInfo) bool {
		with := zonesWithVoters(found, zones)
		return voters(found) == 3 && len(with) == 2 && !with["rack-3"]
	})
}

func zonesWithVoters(members []client.NodeInfo, zones map[string]string) map[string]bool {
	with := map[string]bool{}
	for _, each := range members {
		if each.Role == client.Voter {
			with[zones[each.Address]] = true
		}
	}
	return with
}

func TestAZoneIsTheSameNumberEverywhere(t *testing.T) {
	if failureDomain("") != 0 {
		t.Error("members without a zone are not where dqlite has put them before")
	}
	// FNV-1a's own test vector: a member of another version must come to the same.
	if got := failureDomain("a"); got != 0xaf63dc4c8601ec8c {
		t.Errorf("zone a is %#x", got)
	}
}
