// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.uber.org/zap"
)

const leap = 1_000_000_000

// used makes a snapshot of a server that has been written to: a key changed, one deleted, one that expires.
func used(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "member")
	written(t, dir, "/changed")
	server, err := startAlone(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	lease, err := server.Server.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 3600})
	if err != nil {
		t.Fatal(err)
	}
	for _, request := range []*pb.PutRequest{
		{Key: []byte("/changed"), Value: []byte("again")},
		{Key: []byte("/expires"), Value: []byte{0, 0xff}, Lease: lease.ID},
		{Key: []byte(compactKey), Value: []byte("7")},
		{Key: []byte("/deleted")},
	} {
		if _, err := server.Server.Put(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := server.Server.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("/deleted")}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "snapshot")
	if err := save(server.Server.Backend(), file); err != nil {
		t.Fatal(err)
	}
	return file
}

// restored starts a server of a snapshot, as a node does.
func restored(t *testing.T, file string) *etcdserver.EtcdServer {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "restored")
	err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: file, Name: "cp-1", OutputDataDir: dir, RevisionBump: leap, MarkCompacted: true,
		PeerURLs: []string{"http://127.0.0.1:2380"}, InitialCluster: "cp-1=http://127.0.0.1:2380",
	})
	if err != nil {
		t.Fatal(err)
	}
	server, err := startAlone(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server.Server
}

func exported(t *testing.T, snapshot string) (string, End) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "keys")
	end, err := Export(snapshot, file)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content), end
}

func TestASnapshotMadeOfKeysHasThemAtTheirRevisions(t *testing.T) {
	before, end := exported(t, used(t))
	if end.Keys != 2 || strings.Contains(before, "ZGVsZXRlZA") {
		t.Fatalf("exported %+v: %s", end, before)
	}
	keys, made := filepath.Join(t.TempDir(), "keys"), filepath.Join(t.TempDir(), "made")
	if err := os.WriteFile(keys, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	if told, err := Import(keys, made); err != nil || told != end {
		t.Fatalf("imported %+v, %v; exported were %+v", told, err, end)
	}
	if after, _ := exported(t, made); after != before {
		t.Errorf("exported %s\nand again %s", before, after)
	}
	server := restored(t, made)
	found, err := server.KV().Range(t.Context(), []byte("/"), []byte("0"), mvcc.RangeOptions{})
	if err != nil || len(found.KVs) != 2 || found.Rev < end.Revision+leap {
		t.Fatalf("%+v, %v", found, err)
	}
	changed, expires := found.KVs[0], found.KVs[1]
	if string(changed.Value) != "again" || changed.ModRevision <= changed.CreateRevision || changed.Lease != 0 {
		t.Errorf("changed: %+v", changed)
	}
	if string(expires.Value) != "\x00\xff" || expires.ModRevision != expires.CreateRevision {
		t.Errorf("expires: %+v", expires)
	}
	lease, err := server.LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: expires.Lease, Keys: true})
	if err != nil || lease.GrantedTTL != 3600 || len(lease.Keys) != 1 {
		t.Errorf("its lease: %+v, %v", lease, err)
	}
}

func TestAFileOfKeysThatIsNotWholeIsRefused(t *testing.T) {
	whole, _ := exported(t, used(t))
	lines := strings.SplitAfter(strings.TrimSuffix(whole, "\n"), "\n")
	for name, text := range map[string]string{
		"nothing":            "",
		"cut off":            strings.Join(lines[:len(lines)-1], ""),
		"a line is missing":  strings.Join(lines[1:], ""),
		"a line twice":       lines[0] + whole,
		"half a line":        whole[:20],
		"its end is too old": strings.Join(lines[:len(lines)-1], "") + `{"end":{"keys":2,"revision":1}}`,
	} {
		keys, made := filepath.Join(t.TempDir(), "keys"), filepath.Join(t.TempDir(), "made")
		if err := os.WriteFile(keys, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Import(keys, made); err == nil {
			t.Errorf("%s: imported", name)
		}
		if _, err := os.Stat(made); err == nil {
			t.Errorf("%s: a snapshot was made", name)
		}
	}
}
