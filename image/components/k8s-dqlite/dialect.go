// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/query"
	"github.com/k3s-io/kine/pkg/server"
	"github.com/sirupsen/logrus"
)

// compactSQL removes what nobody may ask for any more between two revisions: what was replaced there, and deletions.
const compactSQL = `DELETE FROM kine WHERE id IN (
	SELECT prev_revision FROM kine WHERE id > ? AND id <= ? AND prev_revision != 0 AND name != 'compact_rev_key'
	UNION ALL
	SELECT id FROM kine WHERE id > ? AND id <= ? AND deleted != 0)`

const sizeSQL = `SELECT (SELECT page_count FROM pragma_page_count()) * (SELECT page_size FROM pragma_page_size())`

// dialect is kine's generic SQL, with all that writes replaced by ways that suit dqlite.
type dialect struct {
	*generic.Generic
	writer  *Writer
	names   *names
	horizon *horizon
}

// newDialect completes kine's generic SQL over an open pool and adds the writer.
func newDialect(base *generic.Generic, writer *Writer, known *names, newest *horizon) *dialect {
	base.LastInsertID = true
	base.CompactSQL = query.New(compactSQL, "?", false, "Compact")
	base.GetSizeSQL = query.New(sizeSQL, "?", false, "GetSize")
	base.TxRetry = func(err error) bool { return fateOf(err) != refused }
	base.ErrCode = errorName
	return &dialect{Generic: base, writer: writer, names: known, horizon: newest}
}

// errorName is the label of an error in kine's metrics: few and stable.
func errorName(err error) string {
	if err == nil {
		return ""
	}
	return map[fate]string{refused: "refused", busy: "busy", unknown: "unknown"}[fateOf(err)]
}

// BeginTx serves kine's two uses of transactions, which it tells apart only by the isolation it asks for: adding one
// revision, and compaction.
func (d *dialect) BeginTx(ctx context.Context, options *sql.TxOptions) (server.Transaction, error) {
	if options != nil && options.Isolation == sql.LevelReadCommitted {
		return &addition{writer: d.writer, names: d.names}, nil
	}
	return d.beginCompaction(ctx)
}

// Insert adds one revision.
func (d *dialect) Insert(
	ctx context.Context, key string, created, deleted bool, previous, lease int64, value []byte,
) (int64, error) {
	tx := &addition{writer: d.writer, names: d.names}
	return tx.Insert(ctx, key, created, deleted, previous, lease, value)
}

// QueryAfter is kine's poll.
func (d *dialect) QueryAfter(ctx context.Context, stmt *query.Stmt, revision int64) (*sql.Rows, error) {
	if created := d.writer.recent.after(revision); created != nil {
		d.horizon.seen(created[len(created)-1].revision)
		return queryMemory(ctx, rowsOf(created))
	}
	return d.Generic.QueryAfter(ctx, stmt, revision)
}

// Fill writes a key of its own in place of a revision that is missing.
func (d *dialect) Fill(ctx context.Context, revision int64) error {
	d.names.forget()
	return d.Generic.Fill(ctx, revision)
}

// CurrentRevision asks for the newest revision. kine asks once at start, when it subscribes to the table, and if that
// fails gives out watches that never deliver anything nor end. So the question is repeated until its context ends.
func (d *dialect) CurrentRevision(ctx context.Context) (int64, error) {
	for {
		revision, err := d.Generic.CurrentRevision(ctx)
		if err == nil || fateOf(err) == refused {
			return revision, err
		}
		if pause(ctx, pollPause, 2*pollPause) != nil {
			return 0, err
		}
	}
}

// addition is kine's transaction around a single insert. It has none of its own: the writer's statement is committed
// when it returns, together with those of other requests.
type addition struct {
	server.Transaction // the rest of the interface: kine uses none of it here
	writer             *Writer
	names              *names
}

func (a *addition) Insert(
	ctx context.Context, key string, created, deleted bool, previous, lease int64, value []byte,
) (int64, error) {
	a.names.add(key)
	revision, err := a.writer.Write(ctx, &write{
		key: key, created: created, deleted: deleted, previous: previous, lease: lease, value: value,
	})
	// kine may lose these on their way up (see backend.go), so they are also left with the request.
	remember(ctx, revision, err)
	return revision, err
}

func (a *addition) Commit() error   { return nil }
func (a *addition) Rollback() error { return nil }

// compaction is kine's compaction transaction. It holds the writer's slot, so that within this process the two never
// turn each other away. It commits at the end of Compact, the last thing kine does in it: an error there is an error
// like any other, while one of MustCommit or MustRollback ends the process in kine's own transaction.
type compaction struct {
	server.Transaction
	release func()
	ended   bool
}

func (d *dialect) beginCompaction(ctx context.Context) (server.Transaction, error) {
	d.writer.Slot.Lock()
	release := sync.OnceFunc(d.writer.Slot.Unlock)
	tx, err := d.Generic.BeginTx(ctx, nil)
	if err != nil {
		release()
		return nil, err
	}
	return &compaction{Transaction: tx, release: release}, nil
}

func (c *compaction) Compact(ctx context.Context, from, to int64) (int64, error) {
	rows, err := c.Transaction.Compact(ctx, from, to)
	if err != nil {
		return 0, err
	}
	if err := c.Commit(); err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	compactedTo.Set(float64(to))
	return rows, nil
}

func (c *compaction) Commit() error {
	defer c.release()
	c.ended = true
	return c.Transaction.Commit()
}

func (c *compaction) MustCommit() {
	if c.ended {
		return
	}
	if err := c.Commit(); err != nil {
		logrus.Errorf("compaction not committed, it is repeated later: %v", err)
	}
}

func (c *compaction) Rollback() error {
	defer c.release()
	if c.ended {
		return nil
	}
	c.ended = true
	return c.Transaction.Rollback()
}

func (c *compaction) MustRollback() {
	if err := c.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		// The connection is gone, and with it the transaction: the server rolls back what it holds.
		logrus.Warnf("compaction not rolled back in order: %v", err)
	}
}
