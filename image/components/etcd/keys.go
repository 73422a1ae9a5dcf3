// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// A datastore of another kind is made of a file with one line of JSON for each key that exists, and one more at its end,
// without which the file is cut off. Revisions stay what they are; of what was before them nothing is told.

// Key is one of the lines.
type Key struct {
	Key            []byte `json:"key"`
	Value          []byte `json:"value"`
	CreateRevision int64  `json:"create_revision"`
	ModRevision    int64  `json:"mod_revision"`
	TTL            int64  `json:"ttl"` // seconds for which it stays, 0: for good
}

// End is the last line.
type End struct {
	Keys     int   `json:"keys"`
	Revision int64 `json:"revision"` // newest, which may be that of a key that does not exist any more
}

type line struct {
	Key
	End *End `json:"end"`
}

// What kube-apiserver remembers of its own compactions means nothing in another datastore.
const compactKey = "compact_rev_key"

// newExportCommand is the command `etcdutl export`, which upstream does not have.
func newExportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "export SNAPSHOT FILE",
		Short: "Writes all keys that a snapshot has to a file, from which another kind of datastore can be made",
		Args:  cobra.ExactArgs(2),
		RunE: func(command *cobra.Command, arguments []string) error {
			command.SilenceUsage = true
			return told(Export(arguments[0], arguments[1]))
		},
	}
}

// newImportCommand is the command `etcdutl import`, which upstream does not have either.
func newImportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE SNAPSHOT",
		Short: "Makes a snapshot that can be restored of the keys in a file",
		Args:  cobra.ExactArgs(2),
		RunE: func(command *cobra.Command, arguments []string) error {
			command.SilenceUsage = true
			return told(Import(arguments[0], arguments[1]))
		},
	}
}

func told(end End, err error) error {
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(end)
}

// Export writes the newest revision of each key that exists in a snapshot.
func Export(snapshot, file string) (end End, err error) {
	db, err := bolt.Open(snapshot, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		return end, fmt.Errorf("%s: %w", snapshot, err)
	}
	defer db.Close()
	target, err := os.OpenFile(filepath.Clean(file), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return end, err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	out := bufio.NewWriter(target)
	encoder := json.NewEncoder(out)
	err = db.View(func(tx *bolt.Tx) error {
		end, err = eachKey(tx, func(key Key) error { return encoder.Encode(key) })
		return err
	})
	if err != nil {
		return end, err
	}
	last := struct {
		End End `json:"end"`
	}{end}
	return end, errors.Join(encoder.Encode(last), out.Flush(), target.Sync())
}

// eachKey goes backwards through all revisions, so the first that it meets of a key is the newest.
func eachKey(tx *bolt.Tx, write func(Key) error) (end End, err error) {
	revisions := tx.Bucket(schema.Key.Name())
	if revisions == nil {
		return end, errors.New("the snapshot has no keys")
	}
	lives, err := lifetimes(tx)
	if err != nil {
		return end, err
	}
	known := map[string]struct{}{compactKey: {}, "": {}} // a revision without a key only says how far revisions are
	cursor := revisions.Cursor()
	for at, data := cursor.Last(); at != nil; at, data = cursor.Prev() {
		end.Revision = max(end.Revision, mvcc.BytesToRev(at).Main)
		var kv mvccpb.KeyValue
		if err := proto.Unmarshal(data, &kv); err != nil {
			return end, fmt.Errorf("revision %d: %w", mvcc.BytesToRev(at).Main, err)
		}
		if _, newer := known[string(kv.Key)]; newer {
			continue
		}
		known[string(kv.Key)] = struct{}{}
		if mvcc.IsTombstone(at) {
			continue
		}
		end.Keys++
		if err := write(Key{kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, lives[kv.Lease]}); err != nil {
			return end, err
		}
	}
	return end, nil
}

// lifetimes returns the seconds of each lease.
func lifetimes(tx *bolt.Tx) (map[int64]int64, error) {
	found := map[int64]int64{}
	leases := tx.Bucket(schema.Lease.Name())
	if leases == nil {
		return found, nil
	}
	return found, leases.ForEach(func(_, data []byte) error {
		var lease leasepb.Lease
		if err := proto.Unmarshal(data, &lease); err != nil {
			return fmt.Errorf("a lease: %w", err)
		}
		found[lease.ID] = lease.TTL
		return nil
	})
}

// Import makes a snapshot in which each key has the one revision that the file tells of it.
//
// Keys with the same lifetime share a lease, as kube-apiserver has it for those that are written together. Its time
// begins anew when etcd starts.
func Import(file, snapshot string) (end End, err error) {
	source, err := os.Open(file)
	if err != nil {
		return end, err
	}
	defer source.Close()
	work := snapshot + ".db"
	defer os.Remove(work)
	log := zap.NewNop()
	be := backend.NewDefaultBackend(log, work)
	defer be.Close()
	if end, err = fill(be, json.NewDecoder(bufio.NewReader(source))); err != nil {
		return end, fmt.Errorf("%s: %w", file, err)
	}
	return end, save(be, snapshot)
}

func fill(be backend.Backend, lines *json.Decoder) (found End, err error) {
	tx := be.BatchTx()
	tx.LockOutsideApply()
	for _, bucket := range schema.AllBuckets {
		tx.UnsafeCreateBucket(bucket)
	}
	tx.Unlock()
	newest := int64(0)
	for {
		var next line
		if err := lines.Decode(&next); errors.Is(err, io.EOF) {
			return found, errors.New("it is cut off")
		} else if err != nil {
			return found, err
		}
		if next.End != nil {
			if found.Revision = next.End.Revision; next.End.Keys != found.Keys || newest > found.Revision {
				return found, fmt.Errorf("it has %d keys and revision %d, and its end says %+v", found.Keys, newest, *next.End)
			}
			break
		}
		if err := put(tx, next.Key); err != nil {
			return found, err
		}
		found.Keys++
		newest = max(newest, next.ModRevision)
	}
	if newest < found.Revision {
		// As `etcdutl snapshot restore --bump-revision` says that revisions are further than any key.
		tx.LockOutsideApply()
		defer tx.Unlock()
		tx.UnsafePut(schema.Key, revisionBytes(found.Revision), []byte{})
	}
	return found, nil
}

// put writes one key. The lock is given back each time: that is when the database commits what has come together.
func put(tx backend.BatchTx, key Key) error {
	tx.LockOutsideApply()
	defer tx.Unlock()
	at := revisionBytes(key.ModRevision)
	if _, others := tx.UnsafeRange(schema.Key, at, nil, 0); len(others) > 0 {
		return fmt.Errorf("two keys have revision %d", key.ModRevision)
	}
	kv := &mvccpb.KeyValue{
		Key: key.Key, Value: key.Value, CreateRevision: key.CreateRevision, ModRevision: key.ModRevision, Lease: key.TTL,
		Version: 1,
	}
	if key.CreateRevision != key.ModRevision {
		kv.Version = 2 // how often it was changed nobody counts
	}
	data, err := proto.Marshal(kv)
	if err != nil {
		return err
	}
	tx.UnsafePut(schema.Key, at, data)
	if key.TTL > 0 {
		schema.MustUnsafePutLease(tx, &leasepb.Lease{ID: key.TTL, TTL: key.TTL})
	}
	return nil
}

func revisionBytes(revision int64) []byte {
	return mvcc.RevToBytes(mvcc.Revision{Main: revision}, mvcc.NewRevBytes())
}
