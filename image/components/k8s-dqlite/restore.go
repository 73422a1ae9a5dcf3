// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	godqlite "github.com/canonical/go-dqlite/v2"
	_ "github.com/mattn/go-sqlite3" // reads the backup: dqlite itself opens no files
)

// A cluster goes on after a backup, and its clients have seen revisions that the backup does not know. They must not
// see them again with another meaning, so a restored datastore goes on this far ahead: more than any cluster writes
// between a backup and the restore. The same number as etcd's tools recommend.
const revisionLeap = 1_000_000_000

const (
	// What compaction would leave: the newest revision of each key that is not deleted. All before the leap counts as
	// compacted, since kine compacts a thousand revisions at a time and would take a million steps over the gap.
	// The key by which kine remembers how far it has compacted is written anew (see leapSQL).
	newestSQL = `SELECT id, name, created, deleted, create_revision, prev_revision, lease, value, old_value, attempt
		FROM kine WHERE id IN (SELECT MAX(id) FROM kine GROUP BY name) AND deleted = 0 AND name != 'compact_rev_key'
		ORDER BY id`
	insertCopyHead = `INSERT INTO kine
		(id, name, created, deleted, create_revision, prev_revision, lease, value, old_value, attempt) VALUES `
	insertCopyRow = `(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	copyColumns   = 10
	valueColumn   = 7
	oldColumn     = 8

	// One row does both: it is the newest revision, from which the next one and kine's poll go on, and it says what was
	// compacted. That is one revision less, because kine's compactor stands still for good when it starts with nothing
	// to do. An AUTOINCREMENT goes on behind the largest id ever written.
	leapSQL = `INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value)
		VALUES (?, 'compact_rev_key', 1, 0, 0, ?, 0, x'')`

	restoreAddress = "127.0.0.1:9000"
)

// Restored is what `k8s-dqlite restore` prints.
type Restored struct {
	Keys     int64 `json:"keys"`
	Revision int64 `json:"revision"` // newest; the next write gets the one after it
}

// restoreTo is the command `k8s-dqlite restore`.
func restoreTo(ctx context.Context, arguments []string) error {
	flags := flag.NewFlagSet("k8s-dqlite restore", flag.ContinueOnError)
	dir := flags.String("storage-dir", "", "folder to make, empty or not there yet")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if *dir == "" || flags.NArg() != 1 {
		return errors.New("restore: --storage-dir and one FILE are wanted")
	}
	configureLog(false)
	// Reading the backup is SQLite's second user in this process, beside the node; go-dqlite reckons with one thread.
	if err := godqlite.ConfigMultiThread(); err != nil {
		return err
	}
	restored, err := Restore(ctx, *dir, flags.Arg(0))
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(restored)
}

// Restore makes a datastore of one member, on the loopback address, with the content of a backup. The folder is marked
// as unfinished until all of it is on disk: one that was left half made is begun again.
func Restore(ctx context.Context, dir, file string) (*Restored, error) {
	backup, newest, err := openBackup(ctx, file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	defer backup.Close()
	storage, err := OpenStorage(dir, false)
	if err != nil {
		return nil, err
	}
	defer storage.Close()
	if !storage.Fresh() {
		return nil, fmt.Errorf("%s has something in it already", dir)
	}
	keys, err := fill(ctx, dir, backup, newest+revisionLeap)
	if err != nil {
		return nil, err
	}
	return &Restored{Keys: keys, Revision: newest + revisionLeap}, storage.Finish()
}

// openBackup opens the file for reading if it is a whole database, and tells its newest revision.
func openBackup(ctx context.Context, file string) (backup *sql.DB, newest int64, err error) {
	if _, err := os.Stat(file); err != nil {
		return nil, 0, err
	}
	location := url.URL{Scheme: "file", Opaque: url.PathEscape(file), RawQuery: "mode=ro&immutable=1"}
	backup, err = sql.Open("sqlite3", location.String())
	if err != nil {
		return nil, 0, err
	}
	var verdict string
	err = backup.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&verdict)
	if err == nil && verdict != "ok" {
		err = errors.New(verdict)
	}
	if err == nil {
		// Fails where there is no row as it does where there is no table.
		err = backup.QueryRowContext(ctx, "SELECT MAX(id) FROM kine").Scan(&newest)
	}
	if err != nil {
		return nil, 0, errors.Join(err, backup.Close())
	}
	return backup, newest, nil
}

// fill starts a node in the folder, copies all rows, lets the revisions go on at another one, and stops the node.
func fill(ctx context.Context, dir string, backup *sql.DB, revision int64) (keys int64, err error) {
	settings := Settings{StorageDir: dir, Address: restoreAddress, Latency: 50 * time.Millisecond}
	member, err := StartMember(ctx, settings)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, member.Close()) }()
	opener, err := member.Connector(settings, &horizon{})
	if err != nil {
		return 0, err
	}
	db := sql.OpenDB(opener)
	defer db.Close()
	if err := applySchema(ctx, db); err != nil {
		return 0, err
	}
	if keys, err = copyRows(ctx, backup, db); err != nil {
		return 0, err
	}
	if _, err := db.ExecContext(ctx, leapSQL, revision, revision-1); err != nil {
		return 0, err
	}
	var found int64
	if err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM kine").Scan(&found); err != nil {
		return 0, err
	}
	if found != keys+1 {
		return 0, fmt.Errorf("%d rows were written and %d are there", keys+1, found)
	}
	return keys, nil
}

// copyRows copies what is newest of each key, in statements of about the size that writers make: each is one raft entry.
func copyRows(ctx context.Context, from, to *sql.DB) (count int64, err error) {
	rows, err := from.QueryContext(ctx, newestSQL)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var batch []any
	bytes := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		places := strings.Repeat(", "+insertCopyRow, len(batch)/copyColumns)[2:]
		_, err := to.ExecContext(ctx, insertCopyHead+places, batch...)
		batch, bytes = nil, 0
		return err
	}
	for rows.Next() {
		row := make([]any, copyColumns)
		targets := make([]any, copyColumns)
		for i := range row {
			targets[i] = &row[i]
		}
		if err := rows.Scan(targets...); err != nil {
			return 0, err
		}
		batch = append(batch, row...)
		bytes += size(row[valueColumn]) + size(row[oldColumn])
		count++
		if len(batch) == batchWrites*copyColumns || bytes > batchBytes {
			if err := flush(); err != nil {
				return 0, fmt.Errorf("after %d rows: %w", count, err)
			}
		}
	}
	return count, errors.Join(rows.Err(), flush())
}

func size(value any) int {
	data, _ := value.([]byte)
	return len(data)
}
