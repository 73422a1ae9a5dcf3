// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync"
)

// What is kept for the poll at most. Without watches nobody takes it.
const maxRecent = 256

// recent has the newest revisions as long as each was a new key and was made here: what watches are to be told of them
// is known, and needs no look into the table. Of a change or a deletion the old value would be missing.
type recent struct {
	mutex sync.Mutex
	made  []made // consecutive revisions
}

type made struct {
	revision int64
	*write
}

// add takes over the outcome of a batch; revision 0 is a write that was not made.
func (r *recent) add(batch []*write, revisions []int64) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for i, item := range batch {
		if revisions[i] == 0 {
			continue
		}
		if count := len(r.made); count == maxRecent || count > 0 && revisions[i] != r.made[count-1].revision+1 {
			r.made = nil
		}
		if item.created {
			r.made = append(r.made, made{revisions[i], item})
		} else {
			r.made = nil
		}
	}
}

// after returns what follows a revision without a gap, nothing if that is not known.
func (r *recent) after(revision int64) []made {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for len(r.made) > 0 && r.made[0].revision <= revision {
		r.made = r.made[1:]
	}
	if len(r.made) == 0 || r.made[0].revision != revision+1 {
		return nil
	}
	result := r.made
	r.made = nil
	return result
}

// afterColumns are those of kine's query for what follows a revision.
var afterColumns = []string{
	"current_rev", "compact_rev", "id", "name", "created", "deleted", "create_revision", "prev_revision", "lease",
	"value", "old_value",
}

// rowsOf makes the rows kine's query would have found.
func rowsOf(created []made) *wholeRows {
	newest := created[len(created)-1].revision
	rows := &wholeRows{columns: afterColumns}
	for _, each := range created {
		rows.values = append(rows.values, []driver.Value{
			newest, nil, each.revision, each.key, int64(1), int64(number(each.deleted)), nil, each.previous, each.lease,
			each.value, nil,
		})
	}
	return rows
}

// memory turns rows into what database/sql returns: each query is answered with the rows of its context.
var memory = sql.OpenDB(memoryConnector{})

type rowsKey struct{}

func queryMemory(ctx context.Context, rows *wholeRows) (*sql.Rows, error) {
	return memory.QueryContext(context.WithValue(ctx, rowsKey{}, rows), "")
}

var errMemory = errors.New("only rows of the context can be asked for")

type memoryConnector struct{}

func (memoryConnector) Connect(context.Context) (driver.Conn, error) { return memoryConn{}, nil }
func (memoryConnector) Driver() driver.Driver                        { return nil }

type memoryConn struct{}

func (memoryConn) Prepare(string) (driver.Stmt, error) { return nil, errMemory }
func (memoryConn) Begin() (driver.Tx, error)           { return nil, errMemory }
func (memoryConn) Close() error                        { return nil }

func (memoryConn) QueryContext(ctx context.Context, _ string, _ []driver.NamedValue) (driver.Rows, error) {
	rows, ok := ctx.Value(rowsKey{}).(*wholeRows)
	if !ok {
		return nil, errMemory
	}
	return rows, nil
}
