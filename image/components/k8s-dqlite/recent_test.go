// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/logstructured/sqllog"
	"github.com/k3s-io/kine/pkg/server"
)

func TestRecentIsWithoutGaps(t *testing.T) {
	created, changed := &write{created: true}, &write{}
	for name, each := range map[string]struct {
		batch     []*write
		revisions []int64
		after     int64
		want      []int64
	}{
		"all":               {[]*write{created, created}, []int64{5, 6}, 4, []int64{5, 6}},
		"some already told": {[]*write{created, created}, []int64{5, 6}, 5, []int64{6}},
		"all already told":  {[]*write{created, created}, []int64{5, 6}, 6, nil},
		"one is missing":    {[]*write{created, created}, []int64{5, 6}, 3, nil},
		"not made":          {[]*write{created, created, created}, []int64{5, 0, 6}, 4, []int64{5, 6}},
		"gap":               {[]*write{created, created}, []int64{5, 7}, 4, nil},
		"behind the gap":    {[]*write{created, created}, []int64{5, 7}, 6, []int64{7}},
		"change":            {[]*write{created, changed, created}, []int64{5, 6, 7}, 4, nil},
		"behind the change": {[]*write{created, changed, created}, []int64{5, 6, 7}, 6, []int64{7}},
		"found later":       {[]*write{created, created}, []int64{9, 5}, 8, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := &recent{}
			r.add(each.batch, each.revisions)
			var got []int64
			for _, item := range r.after(each.after) {
				got = append(got, item.revision)
			}
			if !slices.Equal(got, each.want) {
				t.Errorf("after %d: %v, want %v", each.after, got, each.want)
			}
			if again := r.after(each.after); again != nil && len(got) > 0 {
				t.Errorf("told twice: %v", again)
			}
		})
	}
}

func TestRecentIsBounded(t *testing.T) {
	r := &recent{}
	for revision := int64(1); revision < 5*maxRecent; revision++ {
		r.add([]*write{{created: true}}, []int64{revision})
		if len(r.made) > maxRecent {
			t.Fatalf("%d revisions are kept", len(r.made))
		}
	}
}

// What the poll is told from memory and what it would have read from the table must be the same events.
func TestRecentAndTheTableSayTheSame(t *testing.T) {
	writer, db := testWriter(t, 0)
	ctx := context.Background()
	written := func(item write) int64 {
		t.Helper()
		revision, err := writer.Write(ctx, &item)
		if err != nil || revision == 0 {
			t.Fatal(revision, err)
		}
		return revision
	}
	gone := written(write{key: "/gone", created: true, value: []byte("old")})
	told := written(write{key: "/gone", deleted: true, previous: gone})
	written(write{key: "/gone", created: true, previous: told, value: []byte("again")})
	for number := range 5 {
		written(write{key: fmt.Sprintf("/new/%d", number), created: true, lease: int64(number), value: []byte{0, byte(number)}})
	}
	remembered := events(t, func() (*sql.Rows, error) { return queryMemory(ctx, rowsOf(writer.recent.after(told))) })
	read := events(t, func() (*sql.Rows, error) { return afterAll(ctx, db, told) })
	if len(read) != 6 || !reflect.DeepEqual(remembered, read) {
		t.Errorf("remembered %v\nread       %v", remembered, read)
	}
}

func afterAll(ctx context.Context, db *sql.DB, revision int64) (*sql.Rows, error) {
	columns := generic.WithOldVal
	return db.QueryContext(ctx, fmt.Sprintf(
		"SELECT (%s), (%s), %s FROM kine WHERE id > ? ORDER BY id", generic.CurrentRevSQL, generic.CompactRevSQL, columns,
	), revision)
}

func events(t *testing.T, ask func() (*sql.Rows, error)) []*server.Event {
	t.Helper()
	rows, err := ask()
	if err != nil {
		t.Fatal(err)
	}
	batch, _, err := sqllog.RowsToEvents(rows, true, true)
	if err != nil {
		t.Fatal(err)
	}
	return batch.Events
}
