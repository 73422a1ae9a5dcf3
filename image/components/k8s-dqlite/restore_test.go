// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	godqlite "github.com/canonical/go-dqlite/v2"
	"github.com/canonical/go-dqlite/v2/client"
)

// Before any node of these tests: the backup is read beside one.
func init() {
	if err := godqlite.ConfigMultiThread(); err != nil {
		panic(err)
	}
}

// dumped writes a backup of a store as `k8s-dqlite dump` does.
func dumped(t *testing.T, member *Member) string {
	t.Helper()
	var files []client.File
	files, err := member.Dump(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	image, err := SingleFile(files)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "a backup?#%.sqlite")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestARestoredStoreHasWhatWasThereAndGoesOnFarAhead(t *testing.T) {
	const keys = 120
	ctx := t.Context()
	before, member := served(t, t.TempDir(), time.Hour)
	want := map[string]int64{}
	for number := range keys {
		key := fmt.Sprintf("/kept/%03d", number)
		made, err := before.Create(ctx, key, []byte("made"), 0)
		if err != nil {
			t.Fatal(err)
		}
		if want[key], _, _, err = before.Update(ctx, key, fmt.Appendf(nil, "changed %d", number), made, 0); err != nil {
			t.Fatal(err)
		}
	}
	gone, err := before.Create(ctx, "/gone", []byte("made"), 0)
	if err == nil {
		_, _, _, err = before.Delete(ctx, "/gone", gone)
	}
	if err != nil {
		t.Fatal(err)
	}
	newest, err := before.CurrentRevision(ctx)
	if err != nil {
		t.Fatal(err)
	}

	dir := filepath.Join(t.TempDir(), "new")
	restored, err := Restore(ctx, dir, dumped(t, member))
	if err != nil {
		t.Fatal(err)
	}
	if restored.Revision != newest+revisionLeap || restored.Keys != keys+1 { // and kine's health key
		t.Fatalf("restored %+v, newest was %d", *restored, newest)
	}
	if _, err := Restore(ctx, dir, dumped(t, member)); err == nil {
		t.Error("restored over a datastore")
	}

	after, _ := served(t, dir, time.Hour)
	for key, revision := range want {
		_, kv, err := after.Get(ctx, key, 0, false)
		if err != nil || kv == nil || kv.ModRevision != revision {
			t.Fatalf("%s is %+v, %v, want revision %d", key, kv, err, revision)
		}
	}
	if _, kv, err := after.Get(ctx, "/gone", 0, false); err != nil || kv != nil {
		t.Errorf("a deleted key is %+v, %v", kv, err)
	}
	// A client that has seen more than the backup is told to look again, and never that something goes backwards.
	if old := after.Watch(ctx, newest+5); old.CompactRevision != restored.Revision-1 {
		t.Errorf("a watch from before is not refused: %+v", old)
	}
	live := after.Watch(ctx, restored.Revision+1)
	revision, _, changed, err := after.Update(ctx, "/kept/000", []byte("after"), want["/kept/000"], 0)
	if err != nil || !changed || revision != restored.Revision+1 {
		t.Fatalf("the first write got revision %d, %v, %v", revision, changed, err)
	}
	events := collect(ctx, t, live, 1)
	if events[0].KV.ModRevision != revision || string(events[0].KV.Value) != "after" {
		t.Errorf("the watch says %+v", *events[0].KV)
	}
}

// kine's compactor goes a thousand revisions at a time, and stands still for good when it starts with nothing to do.
func TestCompactionGoesOnBehindTheLeap(t *testing.T) {
	ctx := t.Context()
	before, member := served(t, t.TempDir(), time.Hour)
	if _, err := before.Create(ctx, "/key", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "new")
	restored, err := Restore(ctx, dir, dumped(t, member))
	if err != nil {
		t.Fatal(err)
	}
	after, _ := served(t, dir, 100*time.Millisecond)
	previous := restored.Revision - revisionLeap
	deadline := time.Now().Add(20 * time.Second)
	for {
		if previous, _, _, err = after.Update(ctx, "/key", []byte("n"), previous, 0); err != nil {
			t.Fatal(err)
		}
		if previous < restored.Revision+compactMinRetain+10 {
			continue
		}
		if compacted, err := after.log.CompactRevision(ctx); err != nil || compacted > restored.Revision {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing is compacted up to %d", previous)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestAHalfMadeFolderIsBegunAgain(t *testing.T) {
	before, member := served(t, t.TempDir(), time.Hour)
	if _, err := before.Create(t.Context(), "/key", []byte("value"), 0); err != nil {
		t.Fatal(err)
	}
	file, dir := dumped(t, member), t.TempDir()
	for _, name := range []string{unfinishedMark, "info.yaml", "metadata1"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Restore(t.Context(), dir, file); err != nil {
		t.Fatal(err)
	}
	if exists(filepath.Join(dir, unfinishedMark)) {
		t.Error("the mark is still there")
	}
}

func TestOnlyAWholeDatabaseIsRestored(t *testing.T) {
	cases := map[string][]byte{"nothing": nil, "something else": []byte("no database at all, but long enough to look at")}
	for name, content := range cases {
		t.Run(name, func(t *testing.T) {
			file, dir := filepath.Join(t.TempDir(), "backup"), filepath.Join(t.TempDir(), "new")
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Restore(t.Context(), dir, file); err == nil || exists(dir) {
				t.Errorf("restored, or a folder made of it: %v", err)
			}
		})
	}
	if _, err := Restore(t.Context(), t.TempDir(), "/nowhere"); err == nil {
		t.Error("restored nothing")
	}
}
