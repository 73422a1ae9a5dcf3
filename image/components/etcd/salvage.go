// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/datadir"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

const (
	// Applying the log after the last snapshot, which is ten thousand entries at most.
	salvageTimeout = 5 * time.Minute

	// Kubelets write below this every ten seconds, so the newest of these values tells the time of the data.
	signsOfLife    = "/registry/leases/kube-node-lease/"
	signsOfLifeEnd = "/registry/leases/kube-node-lease0"
)

// Salvaged is what `etcdutl salvage` prints.
type Salvaged struct {
	Term        uint64   `json:"term"`     // of the last entry in the member's log: of two members the one with the
	Index       uint64   `json:"index"`    // higher term has all that was acknowledged, then that with the higher index
	Revision    int64    `json:"revision"` // newest
	Members     []Member `json:"members"`  // all that this one knew of, itself among them
	SignsOfLife [][]byte `json:"signs_of_life"`
}

// Member is one of them.
type Member struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Role    string `json:"role"`
}

// newSalvageCommand is the command `etcdutl salvage`, which upstream does not have.
func newSalvageCommand() *cobra.Command {
	var dir string
	command := &cobra.Command{
		Use:   "salvage FILE --data-dir DIR",
		Short: "Writes to a snapshot all that one member of a lost cluster has; its folder has to be a copy and is used up",
		Args:  cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, arguments []string) error {
			command.SilenceUsage = true
			salvaged, err := Salvage(command.Context(), dir, arguments[0])
			if err != nil {
				return err
			}
			return json.NewEncoder(os.Stdout).Encode(salvaged)
		},
	}
	command.Flags().StringVar(&dir, "data-dir", "", "copy of the folder of a member that does not run")
	if err := command.MarkFlagRequired("data-dir"); err != nil {
		panic(err)
	}
	return command
}

// Salvage writes to a snapshot all that the log of one member of several has, without asking the others.
//
// With three members an acknowledged write is on the disks of two, and a follower learns only later that it counts.
// Neither of upstream's two ways takes such entries: the database alone lacks what was not applied yet, and
// --force-new-cluster drops what the member was not told to be committed. So all of the log is declared to be
// committed, then the server applies it as the only member, listening nowhere, and its database is the snapshot.
func Salvage(ctx context.Context, dir, file string) (*Salvaged, error) {
	if _, err := os.Stat(datadir.ToBackendFileName(dir)); err != nil {
		return nil, fmt.Errorf("%s is of a member that never got as far as having data: %w", dir, err)
	}
	log := zap.NewNop()
	salvaged := &Salvaged{Members: members(log, dir)}
	if err := salvaged.commit(log, datadir.ToWALDir(dir)); err != nil {
		return nil, fmt.Errorf("%s: the log cannot be read: %w", dir, err)
	}
	server, err := startAlone(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer server.Close()
	if err := salvaged.read(ctx, server.Server); err != nil {
		return nil, err
	}
	return salvaged, save(server.Server.Backend(), file)
}

func members(log *zap.Logger, dir string) (found []Member) {
	be := backend.NewDefaultBackend(log, datadir.ToBackendFileName(dir))
	defer be.Close()
	known, _ := schema.NewMembershipBackend(log, be).MustReadMembersFromBackend()
	for _, each := range known {
		role := "voter"
		if each.IsLearner {
			role = "learner"
		}
		for _, address := range each.PeerURLs {
			found = append(found, Member{each.Name, address, role})
		}
	}
	return found
}

// commit declares the whole log to be committed, and notes its end.
func (s *Salvaged) commit(log *zap.Logger, dir string) (err error) {
	snapshots, err := wal.ValidSnapshotEntries(log, dir)
	if err != nil {
		return err
	}
	if len(snapshots) == 0 {
		return errors.New("it has no beginning")
	}
	newest := snapshots[len(snapshots)-1]
	opened, state, entries, err := open(log, dir, newest)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	s.Term, s.Index = newest.GetTerm(), newest.GetIndex()
	if len(entries) > 0 {
		last := entries[len(entries)-1]
		s.Term, s.Index = last.GetTerm(), last.GetIndex()
	}
	if state.GetCommit() >= s.Index {
		return nil
	}
	state.Commit = &s.Index
	return opened.Save(state, nil)
}

// open reads the log; an entry that was half written when the power went is cut off, once, as the server does it.
func open(
	log *zap.Logger, dir string, from *walpb.Snapshot,
) (*wal.WAL, *raftpb.HardState, []*raftpb.Entry, error) {
	for repaired := false; ; repaired = true {
		opened, err := wal.Open(log, dir, from)
		if err != nil {
			return nil, nil, nil, err
		}
		_, state, entries, err := opened.ReadAll()
		if err == nil {
			return opened, state, entries, nil
		}
		opened.Close()
		if repaired || !errors.Is(err, io.ErrUnexpectedEOF) || !wal.Repair(log, dir) {
			return nil, nil, nil, err
		}
	}
}

// startAlone starts the server as the only member; nobody can reach it.
func startAlone(ctx context.Context, dir string) (*embed.Etcd, error) {
	config := embed.NewConfig()
	config.Dir, config.ForceNewCluster = dir, true
	config.ListenPeerUrls, config.ListenClientUrls = []url.URL{}, []url.URL{}
	config.LogLevel, config.LogOutputs = "error", []string{"stderr"}
	server, err := embed.StartEtcd(config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, salvageTimeout)
	defer cancel()
	select {
	case <-server.Server.ReadyNotify():
		return server, nil
	case err = <-server.Err():
	case <-ctx.Done():
		err = fmt.Errorf("the log was not applied: %w", ctx.Err())
	}
	server.Close()
	return nil, err
}

func (s *Salvaged) read(ctx context.Context, server *etcdserver.EtcdServer) error {
	if applied := server.AppliedIndex(); applied < s.Index {
		return fmt.Errorf("the log ends with entry %d, and %d are applied", s.Index, applied)
	}
	found, err := server.KV().Range(ctx, []byte(signsOfLife), []byte(signsOfLifeEnd), mvcc.RangeOptions{})
	if err != nil {
		return err
	}
	s.Revision = found.Rev
	for _, each := range found.KVs {
		s.SignsOfLife = append(s.SignsOfLife, each.Value)
	}
	return nil
}

// save writes a snapshot as etcdctl does, with its check sum behind it.
func save(be backend.Backend, file string) (err error) {
	be.ForceCommit()
	snapshot := be.Snapshot()
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	target, err := os.OpenFile(filepath.Clean(file), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	digest := sha256.New()
	if _, err := snapshot.WriteTo(io.MultiWriter(target, digest)); err != nil {
		return err
	}
	if _, err := target.Write(digest.Sum(nil)); err != nil {
		return err
	}
	return target.Sync()
}
