// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

const databaseName = "k8s"

// The columns up to old_value are kine's, and a row is what kine means by it: one revision of one key. The column
// attempt is ours: a random number for each write, by which a write whose answer was lost finds itself again.
//
// Of kine's indexes those that none of its statements needs are left out: dqlite replicates whole pages, so each index
// adds 4 KiB to a write. The unique one is needed by none either, it is the last line of defence: the same revision of
// a key is never replaced twice, whatever a statement says.
var schema = []string{
	`CREATE TABLE IF NOT EXISTS kine (
		id INTEGER PRIMARY KEY AUTOINCREMENT,
		name TEXT, created INTEGER, deleted INTEGER, create_revision INTEGER, prev_revision INTEGER, lease INTEGER,
		value BLOB, old_value BLOB, attempt INTEGER)`,
	`CREATE INDEX IF NOT EXISTS kine_name_id ON kine (name, id)`,
	`CREATE UNIQUE INDEX IF NOT EXISTS kine_name_prev_revision ON kine (name, prev_revision)`,
}

// applySchema makes the table; every statement is harmless when it has been there for long.
func applySchema(ctx context.Context, db *sql.DB) error {
	for _, statement := range schema {
		for {
			_, err := db.ExecContext(ctx, statement)
			if err == nil {
				break
			}
			// Several members may start at once.
			if fateOf(err) == refused {
				return fmt.Errorf("schema: %w", err)
			}
			if err := pause(ctx, 10*time.Millisecond, 50*time.Millisecond); err != nil {
				return fmt.Errorf("schema: %w", err)
			}
		}
	}
	return nil
}
