// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"testing"
)

// cutRows is a result that ends with an error instead of its end.
type cutRows struct {
	left int
	err  error
}

func (r *cutRows) Columns() []string { return []string{"id"} }
func (r *cutRows) Close() error      { return nil }
func (r *cutRows) Next(destination []driver.Value) error {
	if r.left == 0 {
		return r.err
	}
	r.left--
	destination[0] = int64(r.left)
	return nil
}

func TestWholeRefusesACutResult(t *testing.T) {
	cut := errors.New("leadership lost")
	if _, err := whole(&cutRows{3, cut}, nil); !errors.Is(err, cut) {
		t.Errorf("a result cut after 3 rows gave %v", err)
	}
}

func TestWholeKeepsEveryRow(t *testing.T) {
	rows, err := whole(&cutRows{3, io.EOF}, nil)
	if err != nil {
		t.Fatal(err)
	}
	value := make([]driver.Value, 1)
	for want := int64(2); want >= 0; want-- {
		if err := rows.Next(value); err != nil || value[0] != want {
			t.Fatalf("got %v, %v, want %d", value[0], err, want)
		}
	}
	if err := rows.Next(value); err != io.EOF {
		t.Errorf("after the last row: %v", err)
	}
}

func TestStatementsStayPrepared(t *testing.T) {
	_, db := testWriter(t, 0)
	ctx := context.Background()
	pooled, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer pooled.Close()
	ask := func(text string, argument int) {
		t.Helper()
		var got int
		if err := pooled.QueryRowContext(ctx, text, argument).Scan(&got); err != nil || got != argument {
			t.Fatalf("%s: %d, %v", text, got, err)
		}
	}
	// A statement outlives a change of what it reads from.
	for _, change := range []string{"CREATE TABLE changed (a)", "ALTER TABLE changed ADD COLUMN b"} {
		if _, err := pooled.ExecContext(ctx, change); err != nil {
			t.Fatal(err)
		}
		for place := range 2 {
			ask("SELECT ? + COUNT(*) * 0 FROM changed", place)
		}
	}
	// More texts than are kept prepared, and again with other arguments.
	for round := range 2 {
		for number := range maxPrepared + 5 {
			ask(fmt.Sprintf("SELECT ? + 0 * %d", number), 100*round+number)
		}
	}
	err = pooled.Raw(func(conn any) error {
		if got := len(conn.(*lossyConn).prepared); got != maxPrepared {
			return fmt.Errorf("%d statements are kept, the limit is %d", got, maxPrepared)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
