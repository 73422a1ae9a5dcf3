// SPDX-License-Identifier: Apache-2.0

package main

import (
	"database/sql/driver"
	"errors"
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
