// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/datadir"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
)

// written starts a member that is alone, writes a key, stops it, and returns the end of what is committed.
func written(t *testing.T, dir, key string) uint64 {
	t.Helper()
	config := embed.NewConfig()
	config.Dir, config.LogLevel = dir, "error"
	config.ListenPeerUrls, config.ListenClientUrls = []url.URL{}, []url.URL{}
	server, err := embed.StartEtcd(config)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(time.Minute):
		t.Fatal("not ready within a minute")
	}
	if _, err := server.Server.Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte("acknowledged")}); err != nil {
		t.Fatal(err)
	}
	return server.Server.CommittedIndex()
}

// untold makes a member whose log ends with a key that it was never told to be committed, and has not applied: its
// leader has acknowledged it, and was lost before it could say so.
func untold(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "member")
	committed := written(t, dir, "/told")
	database, err := os.ReadFile(datadir.ToBackendFileName(dir))
	if err != nil {
		t.Fatal(err)
	}
	written(t, dir, "/untold")
	if err := os.WriteFile(datadir.ToBackendFileName(dir), database, 0o600); err != nil {
		t.Fatal(err)
	}
	log := zap.NewNop()
	known, err := wal.ValidSnapshotEntries(log, datadir.ToWALDir(dir))
	if err != nil {
		t.Fatal(err)
	}
	opened, state, _, err := open(log, datadir.ToWALDir(dir), known[len(known)-1])
	if err != nil {
		t.Fatal(err)
	}
	state.Commit = &committed
	if err := opened.Save(state, nil); err != nil {
		t.Fatal(err)
	}
	if err := opened.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// keys returns those that a server on the folder has which is forced to be the only member.
func keys(t *testing.T, dir string) (found []string) {
	t.Helper()
	server, err := startAlone(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	all, err := server.Server.KV().Range(t.Context(), []byte{0}, []byte{0xff}, mvcc.RangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, each := range all.KVs {
		found = append(found, string(each.Key))
	}
	return found
}

func TestWhatTheMemberWasNotToldToBeCommittedIsSalvaged(t *testing.T) {
	dir, forced := untold(t), filepath.Join(t.TempDir(), "forced")
	if err := os.CopyFS(forced, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if found := keys(t, forced); len(found) != 1 || found[0] != "/told" {
		t.Fatalf("--force-new-cluster keeps %v: then there is no need of this command any more", found)
	}
	file := filepath.Join(t.TempDir(), "salvaged")
	salvaged, err := Salvage(t.Context(), dir, file)
	if err != nil {
		t.Fatal(err)
	}
	if salvaged.Term == 0 || salvaged.Index == 0 || len(salvaged.Members) != 1 || salvaged.Members[0].Role != "voter" {
		t.Errorf("salvaged %+v", *salvaged)
	}
	manager := snapshot.NewV3(zap.NewNop())
	status, err := manager.Status(file)
	if err != nil || status.TotalKey != 2 || status.Revision != salvaged.Revision {
		t.Fatalf("the snapshot is %+v, %v; salvaged was revision %d", status, err, salvaged.Revision)
	}
	restored := filepath.Join(t.TempDir(), "restored")
	err = manager.Restore(snapshot.RestoreConfig{
		SnapshotPath: file, Name: "cp-1", OutputDataDir: restored,
		PeerURLs: []string{"http://127.0.0.1:2380"}, InitialCluster: "cp-1=http://127.0.0.1:2380",
	})
	if err != nil {
		t.Fatalf("the check sum or the form of the snapshot is wrong: %v", err)
	}
	if found := keys(t, restored); len(found) != 2 {
		t.Errorf("restored are %v", found)
	}
}

func TestAFolderWithoutDataIsNotSalvaged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "salvaged")
	if _, err := Salvage(t.Context(), t.TempDir(), file); err == nil {
		t.Error("salvaged nothing")
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a file was made of nothing")
	}
}

func TestALogThatCannotBeReadIsNotSalvaged(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "member")
	written(t, dir, "/key")
	segments, _ := filepath.Glob(filepath.Join(datadir.ToWALDir(dir), "*.wal"))
	for _, segment := range segments {
		content, err := os.ReadFile(segment)
		if err != nil {
			t.Fatal(err)
		}
		content[100] ^= 0xff
		if err := os.WriteFile(segment, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if salvaged, err := Salvage(t.Context(), dir, filepath.Join(t.TempDir(), "salvaged")); err == nil {
		t.Errorf("salvaged %+v", *salvaged)
	}
}
