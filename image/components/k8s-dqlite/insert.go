// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// One statement for all writes of a batch, committed by itself. Each is added only if the revision it names as the
// previous one is the key's newest; the creation revision and the old value are taken over from there. The rows are
// added in the order of the batch, with consecutive revisions, since nothing else writes while a statement does.
const (
	insertHead = `INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value, attempt)
		WITH wanted (place, name, created, deleted, previous, lease, value, attempt) AS (VALUES `
	insertRow  = `(?, ?, ?, ?, ?, ?, ?, ?)`
	insertTail = `)
		SELECT wanted.name, wanted.created, wanted.deleted, COALESCE(NULLIF(old.create_revision, 0), old.id),
			wanted.previous, wanted.lease, wanted.value, old.value, wanted.attempt
		FROM wanted LEFT JOIN kine AS old ON old.id = wanted.previous AND old.deleted = 0
		WHERE COALESCE((SELECT MAX(id) FROM kine WHERE kine.name = wanted.name), 0) = wanted.previous
		ORDER BY wanted.place`
	addedSince = `SELECT id, attempt FROM kine WHERE id > ? AND id <= ?`
	findOne    = `SELECT id FROM kine WHERE name = ? AND attempt = ? ORDER BY id DESC LIMIT 1`
)

// insert adds the writes whose condition holds and returns the new revisions, 0 for the others.
func insert(ctx context.Context, conn *sql.Conn, batch []*write) ([]int64, error) {
	rows := make([]string, len(batch))
	arguments := make([]any, 0, 8*len(batch))
	for i, item := range batch {
		rows[i] = insertRow
		arguments = append(arguments, i, item.key, number(item.created), number(item.deleted),
			item.previous, item.lease, item.value, item.attempt)
	}
	result, err := conn.ExecContext(ctx, insertHead+strings.Join(rows, ", ")+insertTail, arguments...)
	if err != nil {
		return nil, err
	}
	added, err := result.RowsAffected()
	if err != nil {
		return nil, err
	}
	last, err := result.LastInsertId()
	if err != nil {
		return nil, err
	}
	revisions := make([]int64, len(batch))
	switch {
	case added == 0:
	case added == int64(len(batch)):
		for i := range revisions {
			revisions[i] = last - added + 1 + int64(i)
		}
	default:
		return assign(ctx, conn, batch, last-added, last)
	}
	return revisions, nil
}

// assign asks which of the writes the rows between two revisions are.
func assign(ctx context.Context, conn *sql.Conn, batch []*write, after, last int64) ([]int64, error) {
	rows, err := conn.QueryContext(ctx, addedSince, after, last)
	if err != nil {
		return nil, lostAfter(err)
	}
	defer rows.Close()
	byAttempt := map[int64]int64{}
	for rows.Next() {
		var id, attempt sql.NullInt64
		if err := rows.Scan(&id, &attempt); err != nil {
			return nil, lostAfter(err)
		}
		byAttempt[attempt.Int64] = id.Int64
	}
	if err := rows.Err(); err != nil {
		return nil, lostAfter(err)
	}
	revisions := make([]int64, len(batch))
	for i, item := range batch {
		revisions[i] = byAttempt[item.attempt]
		delete(byAttempt, item.attempt)
	}
	if len(byAttempt) != 0 {
		return nil, lostAfter(fmt.Errorf("%d revisions up to %d belong to no write", len(byAttempt), last))
	}
	return revisions, nil
}

// find returns the revision a write was given by an earlier attempt, or 0.
func find(ctx context.Context, conn *sql.Conn, item *write) (int64, error) {
	var id int64
	err := conn.QueryRowContext(ctx, findOne, item.key, item.attempt).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return id, err
}

// lostAfter wraps what went wrong after rows had been added: whatever the error says about itself, for the writes it
// is a lost answer.
func lostAfter(err error) error { return fmt.Errorf("after adding: %s", err.Error()) }

func number(truth bool) int {
	if truth {
		return 1
	}
	return 0
}
