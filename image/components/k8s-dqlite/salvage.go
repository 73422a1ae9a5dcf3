// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	godqlite "github.com/canonical/go-dqlite/v2"
	"github.com/canonical/go-dqlite/v2/client"
	"gopkg.in/yaml.v2"
)

// Kubelets write here every ten seconds, so the newest of these tells the time of the data better than any file does.
const signsOfLifeSQL = `SELECT value FROM kine WHERE id IN (SELECT MAX(id) FROM kine
	WHERE name GLOB '/registry/leases/kube-node-lease/*' GROUP BY name) AND deleted = 0`

// Salvaged is what `k8s-dqlite salvage` prints.
type Salvaged struct {
	Term        uint64         `json:"term"`     // of the last entry in the member's log: of two members the one with the
	Index       uint64         `json:"index"`    // higher term has all that was acknowledged, then that with the higher index
	Revision    int64          `json:"revision"` // newest
	Members     []MemberStatus `json:"members"`  // those that this one knew of; who came last may be missing
	SignsOfLife [][]byte       `json:"signs_of_life"`
}

// salvageTo is the command `k8s-dqlite salvage`.
func salvageTo(ctx context.Context, arguments []string) error {
	flags := flag.NewFlagSet("k8s-dqlite salvage", flag.ContinueOnError)
	dir := flags.String("storage-dir", "", "copy of the folder of a member that does not run; it is used up")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if *dir == "" || flags.NArg() != 1 {
		return errors.New("salvage: --storage-dir and one FILE are wanted")
	}
	configureLog(false)
	salvaged, err := Salvage(ctx, *dir, flags.Arg(0))
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(salvaged)
}

// Salvage writes to a backup all that the log of one member of several has, without asking the others.
//
// With three members an acknowledged write is on the disks of two, and a follower learns only later that it counts. So
// all entries are taken as if they did: among them may be some that were never acknowledged, and none is left out that
// was. A dump needs a leader, so the member is made the only one first, in its folder, which therefore has to be a copy.
func Salvage(ctx context.Context, dir, file string) (*Salvaged, error) {
	own, members, err := membership(dir)
	if err != nil {
		return nil, err
	}
	storage, err := OpenStorage(dir, false)
	if err != nil {
		return nil, err
	}
	defer storage.Close()
	// Asked first, since unlike what follows it never deletes what it cannot read.
	last, err := godqlite.ReadLastEntryInfo(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: the log cannot be read: %w", dir, err)
	}
	alone := client.NodeInfo{ID: own.ID, Address: own.Address, Role: client.Voter}
	if err := godqlite.ReconfigureMembershipExt(dir, []godqlite.NodeInfo{alone}); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if err := writeYAML(filepath.Join(dir, "cluster.yaml"), []client.NodeInfo{alone}); err != nil {
		return nil, err
	}
	salvaged := &Salvaged{Term: last.Term, Index: last.Index, Members: members}
	return salvaged, salvaged.dump(ctx, Settings{StorageDir: dir, Address: own.Address, Latency: 50 * time.Millisecond}, file)
}

// membership reads who a member is and whom it knows. What has not finished its first start, or has not arrived in the
// cluster it joins, was never told that anything counts.
func membership(dir string) (own client.NodeInfo, members []MemberStatus, err error) {
	for _, mark := range []string{unfinishedMark, "join"} {
		if exists(filepath.Join(dir, mark)) {
			return own, nil, fmt.Errorf("%s is of a member that never got as far as having data (%s)", dir, mark)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "info.yaml"))
	if err == nil {
		err = yaml.Unmarshal(data, &own)
	}
	if err != nil {
		return own, nil, err
	}
	known, err := memberStore(filepath.Join(dir, "cluster.yaml")).Get(context.Background())
	if err != nil {
		return own, nil, fmt.Errorf("%s: cluster.yaml: %w", dir, err)
	}
	for _, each := range known {
		// Who led is of no use any more.
		members = append(members, memberStatus(each, &client.NodeInfo{}))
	}
	return own, members, nil
}

// dump starts the node, which nobody can reach, and writes what it has when all of its log is applied.
func (s *Salvaged) dump(ctx context.Context, settings Settings, file string) (err error) {
	member, err := StartMember(ctx, settings)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, member.Close()) }()
	db, err := member.app.Open(ctx, databaseName)
	if err != nil {
		return err
	}
	defer db.Close()
	// The leader answers a query when it has applied all before it.
	if err := db.QueryRowContext(ctx, "SELECT MAX(id) FROM kine").Scan(&s.Revision); err != nil {
		return fmt.Errorf("no data: %w", err)
	}
	if s.SignsOfLife, err = values(ctx, db, signsOfLifeSQL); err != nil {
		return err
	}
	files, err := member.Dump(ctx)
	if err != nil {
		return err
	}
	image, err := SingleFile(files)
	if err != nil {
		return err
	}
	target, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = target.Write(image)
	return errors.Join(err, target.Sync(), target.Close())
}

func values(ctx context.Context, db *sql.DB, query string) (found [][]byte, err error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var value []byte
		if err := rows.Scan(&value); err != nil {
			return nil, err
		}
		found = append(found, value)
	}
	return found, rows.Err()
}
