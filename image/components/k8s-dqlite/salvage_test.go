// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/canonical/go-dqlite/v2/client"
	"github.com/prometheus/client_golang/prometheus"
)

// writing starts writers on a member, and returns what ends them and tells which keys were acknowledged, with revisions.
func writing(t *testing.T, member *Member, settings Settings, count int) func() map[string]int64 {
	t.Helper()
	settings.Compact = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	store, err := openBackend(ctx, settings, member, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	var mutex sync.Mutex
	var writers sync.WaitGroup
	acknowledged := map[string]int64{}
	for writer := range count {
		writers.Go(func() {
			for number := 0; ctx.Err() == nil; number++ {
				key := fmt.Sprintf("/kept/%d/%d", writer, number)
				revision, err := store.Create(ctx, key, []byte(key), 0)
				if err != nil {
					return
				}
				mutex.Lock()
				acknowledged[key] = revision
				mutex.Unlock()
			}
		})
	}
	return func() map[string]int64 {
		cancel()
		writers.Wait()
		return acknowledged
	}
}

func TestWhatWasAcknowledgedByThreeIsSalvagedFromOne(t *testing.T) {
	addresses := []string{"127.0.0.17:9393", "127.0.0.18:9393", "127.0.0.19:9393"}
	signer, settings, members := newAuthority(t), map[string]Settings{}, map[string]*Member{}
	t.Cleanup(func() {
		for _, member := range members {
			closeBounded(member)
		}
	})
	for number, address := range addresses {
		settings[address] = signer.settings(t, address, addresses[:min(number, 1)]...)
		if err := os.Mkdir(settings[address].StorageDir, 0o700); err != nil {
			t.Fatal(err)
		}
		member, err := StartMember(t.Context(), settings[address])
		if err != nil {
			t.Fatal(err)
		}
		members[address] = member
	}
	leader := waitFor(t, members[addresses[0]], "three voters", func(found []client.NodeInfo) bool {
		return len(found) == 3 && voters(found) == 3
	})
	stop := writing(t, members[leader], settings[leader], 8)
	survivor := otherThan(members, leader).network.address
	lost := otherThan(members, leader, survivor).network.address
	end := func(address string) {
		if err := members[address].Close(); err != nil {
			t.Error(err)
		}
		delete(members, address)
	}
	// First one, so that from now on the survivor has all that is acknowledged; then the leader in the midst of writing.
	time.Sleep(500 * time.Millisecond)
	end(lost)
	time.Sleep(500 * time.Millisecond)
	end(leader)
	acknowledged := stop()
	end(survivor)
	if len(acknowledged) < 50 {
		t.Fatalf("only %d writes were acknowledged", len(acknowledged))
	}

	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(settings[survivor].StorageDir)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "salvaged")
	salvaged, err := Salvage(t.Context(), copied, file)
	if err != nil {
		t.Fatal(err)
	}
	itself := func(each MemberStatus) bool { return each.Address == survivor }
	if !slices.ContainsFunc(salvaged.Members, itself) || salvaged.Term == 0 || salvaged.Index == 0 {
		t.Errorf("salvaged %+v", salvaged)
	}
	dir := filepath.Join(t.TempDir(), "new")
	restored, err := Restore(t.Context(), dir, file)
	if err != nil {
		t.Fatal(err)
	}
	if restored.Revision != salvaged.Revision+revisionLeap {
		t.Errorf("restored %+v of %d", *restored, salvaged.Revision)
	}
	proved(t, dir, acknowledged)
	joined(t, dir)
}

// proved starts the new datastore and finds all in it.
func proved(t *testing.T, dir string, acknowledged map[string]int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	settings := Settings{StorageDir: dir, Address: restoreAddress, Latency: 20 * time.Millisecond, Compact: time.Hour}
	member, err := StartMember(ctx, settings)
	if err != nil {
		t.Fatal(err)
	}
	defer member.Close()
	store, err := openBackend(ctx, settings, member, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	for key, revision := range acknowledged {
		_, kv, err := store.Get(ctx, key, 0, false)
		if err != nil || kv == nil || kv.ModRevision != revision || string(kv.Value) != key {
			t.Fatalf("%s is %+v, %v, and was acknowledged at %d", key, kv, err, revision)
		}
	}
}

// joined lets another member join the new datastore, under an authority of its own.
func joined(t *testing.T, dir string) {
	t.Helper()
	signer := newAuthority(t)
	first, second := signer.settings(t, "127.0.0.17:9394"), signer.settings(t, "127.0.0.18:9394", "127.0.0.17:9394")
	first.StorageDir = dir
	if moved, err := moveAddress(dir, first.Address); err != nil || !moved {
		t.Fatal(moved, err)
	}
	if err := os.Mkdir(second.StorageDir, 0o700); err != nil {
		t.Fatal(err)
	}
	var founder *Member
	for _, settings := range []Settings{first, second} {
		member, err := StartMember(t.Context(), settings)
		if err != nil {
			t.Fatal(err)
		}
		defer closeBounded(member)
		if founder == nil {
			founder = member
		}
	}
	waitFor(t, founder, "the new one is a member", func(found []client.NodeInfo) bool { return len(found) == 2 })
}

func TestOnlyAMemberThatHadDataIsSalvaged(t *testing.T) {
	for name, files := range map[string][]string{
		"nothing": nil, "a first start": {unfinishedMark, "info.yaml", "cluster.yaml"}, "on its way in": {"join", "info.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, file := t.TempDir(), filepath.Join(t.TempDir(), "salvaged")
			for _, each := range files {
				if err := os.WriteFile(filepath.Join(dir, each), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := Salvage(t.Context(), dir, file); err == nil || exists(file) {
				t.Errorf("salvaged, or a file made of it: %v", err)
			}
		})
	}
}

func TestALogThatCannotBeReadIsNotSalvaged(t *testing.T) {
	dir, address := t.TempDir(), "127.0.0.17:9395"
	member := startAt(t, dir, address)
	db, err := member.app.Open(t.Context(), databaseName)
	if err == nil {
		err = applySchema(t.Context(), db)
	}
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	if err := member.Close(); err != nil {
		t.Fatal(err)
	}
	segments := logFiles(dir)
	if len(segments) == 0 {
		t.Fatal("no segment is complete")
	}
	for _, segment := range segments {
		if err := os.WriteFile(segment, make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if salvaged, err := Salvage(t.Context(), dir, filepath.Join(t.TempDir(), "salvaged")); err == nil {
		t.Errorf("salvaged %+v", salvaged)
	}
}
