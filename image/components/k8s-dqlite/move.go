// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	godqlite "github.com/canonical/go-dqlite/v2"
	"github.com/canonical/go-dqlite/v2/client"
	"github.com/sirupsen/logrus"
	"gopkg.in/yaml.v2"
)

const (
	snapshotTimeout  = 30 * time.Second
	snapshotInterval = 100 * time.Millisecond // between two looks for it
	leastTrailing    = 4                      // entries that dqlite always keeps behind a snapshot
)

// moveAddress gives a member its new address if it is alone and has been on the loopback address so far: a cluster's
// first member listens to its own machine only until there is a second one. Any other change of address is refused by
// go-dqlite, since the others would not find the member.
//
// The list of members is written last and is what is looked at, so losing power in between only means doing it again.
// Whether it has moved is returned.
func moveAddress(dir, address string) (bool, error) {
	list := filepath.Join(dir, "cluster.yaml")
	members, err := memberStore(list).Get(context.Background())
	if os.IsNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", list, err)
	}
	if len(members) != 1 || members[0].Address == address {
		return false, nil
	}
	if loopback, _ := checkAddress(members[0].Address); !loopback {
		return false, nil
	}
	logrus.Infof("moving from %s to %s", members[0].Address, address)
	moved := client.NodeInfo{ID: members[0].ID, Address: address, Role: client.Voter}
	if err := godqlite.ReconfigureMembershipExt(dir, []godqlite.NodeInfo{moved}); err != nil {
		return false, fmt.Errorf("new address %s: %w", address, err)
	}
	if err := writeYAML(filepath.Join(dir, "info.yaml"), moved); err != nil {
		return false, err
	}
	return true, writeYAML(list, []client.NodeInfo{moved})
}

// shortenLog replaces the log of a member that is alone by a snapshot. A newcomer is sent all of the log in one message,
// again and again until it has answered, and the log of a young cluster is several times as large as its database: ten
// megabytes, which a slow link does not carry between two heartbeats. Of a snapshot one is sent, once.
func shortenLog(ctx context.Context, s Settings) error {
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	// Without certificates nobody is let in meanwhile.
	s.Cert, s.Key, s.CA = "", "", ""
	member, err := startMember(ctx, s, godqlite.SnapshotParams{Threshold: 1, Trailing: leastTrailing})
	if err != nil {
		return err
	}
	return errors.Join(member.untilGone(ctx, logFiles(s.StorageDir)), member.Close())
}

// untilGone makes entries that say nothing until a snapshot has made all those files of the log superfluous.
func (m *Member) untilGone(ctx context.Context, files []string) error {
	db, err := m.app.Open(ctx, databaseName)
	if err != nil {
		return err
	}
	defer db.Close()
	for slices.ContainsFunc(files, exists) {
		if _, err := db.ExecContext(ctx, "PRAGMA user_version = 0"); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(snapshotInterval):
		}
	}
	return nil
}

// logFiles returns the files of the log that are complete: FIRST-LAST, the numbers of their entries.
func logFiles(dir string) []string {
	found, _ := filepath.Glob(filepath.Join(dir, "[0-9]*-[0-9]*")) // an error is one of the pattern only
	return found
}

// writeYAML replaces a file; its content is on disk before it has the name, and the name before it returns.
func writeYAML(path string, value any) error {
	data, err := yaml.Marshal(value)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}
