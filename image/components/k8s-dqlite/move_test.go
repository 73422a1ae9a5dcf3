// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/canonical/go-dqlite/v2/client"
)

func startAt(t *testing.T, dir, address string) *Member {
	t.Helper()
	member, err := StartMember(t.Context(), Settings{StorageDir: dir, Address: address, Latency: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return member
}

func TestTheOnlyMemberMovesWithItsData(t *testing.T) {
	dir, before, after := t.TempDir(), "127.0.0.1:9391", "127.0.0.2:9392"
	member := startAt(t, dir, before)
	db, err := member.app.Open(t.Context(), databaseName)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("CREATE TABLE kept (value TEXT)"); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if _, err := db.Exec("INSERT INTO kept VALUES ('acknowledged')"); err != nil {
			t.Fatal(err)
		}
	}
	db.Close()
	if err := member.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // as if the power had been cut after the first time
		if moved, err := moveAddress(dir, after); err != nil || !moved {
			t.Fatal(moved, err)
		}
		if err := writeYAML(filepath.Join(dir, "cluster.yaml"), []client.NodeInfo{{ID: member.app.ID(), Address: before}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := moveAddress(dir, after); err != nil {
		t.Fatal(err)
	}
	if err := shortenLog(t.Context(), Settings{StorageDir: dir, Address: after, Latency: 5 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if first, _ := filepath.Glob(filepath.Join(dir, "0000000000000001-*")); len(first) > 0 {
		t.Errorf("the log still begins with %v", first)
	}
	member = startAt(t, dir, after)
	defer member.Close()
	members, err := member.Members(t.Context())
	if err != nil || len(members) != 1 || members[0].Address != after {
		t.Fatalf("members are %v, %v", members, err)
	}
	db, err = member.app.Open(t.Context(), databaseName)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var value string
	var number int
	query := "SELECT max(value), count(*) FROM kept"
	if err := db.QueryRow(query).Scan(&value, &number); err != nil || value != "acknowledged" || number != 20 {
		t.Fatalf("found %q, %d times, %v", value, number, err)
	}
}

func TestMembersThatOthersKnowStayWhereTheyAre(t *testing.T) {
	cases := map[string][]client.NodeInfo{
		"two members":      {{ID: 1, Address: "127.0.0.1:9000"}, {ID: 2, Address: "192.0.2.2:9000"}},
		"another network":  {{ID: 1, Address: "192.0.2.1:9000"}},
		"where it is told": {{ID: 1, Address: "192.0.2.9:9000"}},
	}
	for name, members := range cases {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cluster.yaml")
			if err := writeYAML(path, members); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(path)
			if moved, err := moveAddress(filepath.Dir(path), "192.0.2.9:9000"); err != nil || moved {
				t.Fatal(moved, err)
			}
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Errorf("the list became %s", after)
			}
		})
	}
}

func TestNothingToMoveInANewFolder(t *testing.T) {
	if moved, err := moveAddress(t.TempDir(), "192.0.2.9:9000"); err != nil || moved {
		t.Fatal(moved, err)
	}
}
