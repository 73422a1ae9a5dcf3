// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql"
	"hash/maphash"
	"sync"
)

// Names of more keys than this are not kept; with them they need some 5 MiB.
const maxNames = 1 << 18

// names knows of keys that were never written, for a member whose process makes all writes there are. An API server
// asks before it creates, above all while it makes its defaults: two of five statements until it is ready were
// questions for keys that do not exist.
//
// A name is added before its first write is attempted and never removed. So a name that is missing was not written at
// any time before the look, with or without an acknowledgement; two names of one hash only cost a statement.
type names struct {
	mutex sync.RWMutex
	seed  maphash.Seed
	known map[uint64]struct{} // nil: nothing is known
}

// load takes over the names in the table; nothing may write meanwhile.
func (n *names) load(ctx context.Context, db *sql.DB) error {
	rows, err := db.QueryContext(ctx, "SELECT DISTINCT name FROM kine")
	if err != nil {
		return err
	}
	defer rows.Close()
	n.seed = maphash.MakeSeed()
	n.known = map[uint64]struct{}{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err
		}
		n.add(name)
	}
	return rows.Err()
}

func (n *names) add(name string) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	if n.known == nil {
		return
	}
	n.known[maphash.String(n.seed, name)] = struct{}{}
	if len(n.known) > maxNames {
		n.known = nil
	}
}

// forget makes every key one that may exist.
func (n *names) forget() {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	n.known = nil
}

// lacks says whether a key was certainly never written.
func (n *names) lacks(name string) bool {
	n.mutex.RLock()
	defer n.mutex.RUnlock()
	if n.known == nil {
		return false
	}
	_, found := n.known[maphash.String(n.seed, name)]
	return !found
}
