// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"github.com/prometheus/client_golang/prometheus"
)

// testBackend starts a real node of one member with all that serves requests but the socket.
func testBackend(t *testing.T) *backend {
	t.Helper()
	store, _ := served(t, t.TempDir(), time.Hour)
	return store
}

// served starts what serves requests on a folder.
func served(t *testing.T, dir string, compact time.Duration) (*backend, *Member) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	settings := Settings{StorageDir: dir, Address: restoreAddress, Latency: 20 * time.Millisecond, Compact: compact}
	member, err := StartMember(ctx, settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { member.Close() })
	t.Cleanup(cancel)
	store, err := openBackend(ctx, settings, member, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return store, member
}

// life creates, changes, deletes and creates again a key, and looks at it in between: what is read must be what was
// acknowledged, at a revision that is not older than any seen before.
func life(ctx context.Context, store *backend, key string, rounds int) error {
	newest := int64(0)
	look := func(want string) error {
		revision, kv, err := store.Get(ctx, key, 0, false)
		if err != nil {
			return err
		}
		got := "nothing"
		if kv != nil {
			got = string(kv.Value)
		}
		if got != want || revision < newest {
			return fmt.Errorf("%s is %s at %d, want %s not before %d", key, got, revision, want, newest)
		}
		newest = revision
		return nil
	}
	if err := look("nothing"); err != nil {
		return err
	}
	for round := range rounds {
		first, second := fmt.Sprintf("%d made", round), fmt.Sprintf("%d changed", round)
		made, err := store.Create(ctx, key, []byte(first), 0)
		if err = errors.Join(err, look(first)); err != nil {
			return err
		}
		changed, _, ok, err := store.Update(ctx, key, []byte(second), made, 0)
		if err = errors.Join(err, look(second)); err != nil || !ok {
			return fmt.Errorf("change of %s: %v, %w", key, ok, err)
		}
		_, _, ok, err = store.Delete(ctx, key, changed)
		if err = errors.Join(err, look("nothing")); err != nil || !ok {
			return fmt.Errorf("deletion of %s: %v, %w", key, ok, err)
		}
		// Neighbours that are created only, so that some of what watches are told comes from memory.
		for number := range 3 {
			if _, err := store.Create(ctx, fmt.Sprintf("%s/%d/%d", key, round, number), []byte("new"), 0); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestAWatchIsToldWhatTheTableSays(t *testing.T) {
	const writers, rounds = 6, 8
	store := testBackend(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	start, err := store.CurrentRevision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	live := store.Watch(ctx, start+1)
	var group sync.WaitGroup
	for number := range writers {
		group.Go(func() {
			if err := life(ctx, store, fmt.Sprintf("/life/%d", number), rounds); err != nil {
				t.Error(err)
			}
		})
	}
	told := collect(ctx, t, live, writers*rounds*6)
	group.Wait()
	table := collect(ctx, t, store.Watch(ctx, start+1), len(told))
	for i, event := range told {
		if want := start + 1 + int64(i); event.KV.ModRevision != want {
			t.Fatalf("event %d has revision %d, want %d", i, event.KV.ModRevision, want)
		}
		if !reflect.DeepEqual(event, table[i]) {
			t.Fatalf("told %s %+v, the table has %s %+v", event, *event.KV, table[i], *table[i].KV)
		}
	}
}

func collect(ctx context.Context, t *testing.T, watch server.WatchResult, count int) []*server.Event {
	t.Helper()
	var events []*server.Event
	for len(events) < count {
		select {
		case batch, open := <-watch.Eventc:
			if !open {
				t.Fatalf("the watch ended after %d of %d events", len(events), count)
			}
			events = append(events, batch.Events...)
		case err := <-watch.Errorc:
			t.Fatal(err)
		case <-ctx.Done():
			t.Fatalf("%d of %d events until the end", len(events), count)
		}
	}
	return events
}
