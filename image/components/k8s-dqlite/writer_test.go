// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// lossyConnector opens connections on which inserts fail as they do when a leader dies: some before they are executed,
// some after, and the caller cannot tell which.
type lossyConnector struct {
	driver.Connector
	percent int
}

func (c lossyConnector) Connect(ctx context.Context) (driver.Conn, error) {
	opened, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &lossyConn{opened.(*wholeConn), c.percent}, nil
}

type lossyConn struct {
	*wholeConn
	percent int
}

func (c *lossyConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	insert := strings.HasPrefix(query, "INSERT")
	if insert && rand.IntN(100) < c.percent {
		return nil, driver.ErrBadConn
	}
	result, err := c.wholeConn.ExecContext(ctx, query, args)
	if insert && rand.IntN(100) < c.percent {
		return nil, driver.ErrBadConn
	}
	return result, err
}

// testWriter starts a real dqlite node of one member and a writer whose inserts fail so often.
func testWriter(t *testing.T, percent int) (*Writer, *sql.DB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	settings := Settings{StorageDir: t.TempDir(), Address: "127.0.0.1:9000", Latency: 20 * time.Millisecond}
	member, err := StartMember(ctx, settings)
	if err != nil {
		t.Fatal(err)
	}
	opener, err := member.Connector(settings, &horizon{})
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(lossyConnector{opener, percent})
	if err := applySchema(ctx, db); err != nil {
		t.Fatal(err)
	}
	writer := NewWriter(db)
	go writer.Run(ctx)
	t.Cleanup(func() {
		cancel()
		db.Close()
		member.Close()
	})
	return writer, db
}

func TestWritesAreMadeExactlyOnceThoughAnswersAreLost(t *testing.T) {
	const writers, each = 8, 30
	writer, db := testWriter(t, 20)
	var group sync.WaitGroup
	var mutex sync.Mutex
	acknowledged := map[int64]string{}
	for number := range writers {
		group.Go(func() {
			previous := int64(0)
			for count := range each {
				key := fmt.Sprintf("/own/%d", number)
				revision, err := writer.Write(context.Background(), &write{
					key: key, created: previous == 0, previous: previous, value: fmt.Appendf(nil, "%d", count),
				})
				// Nobody else writes the key: a conflict would be with a repetition of the same write.
				if err != nil || revision == 0 {
					t.Errorf("%s upon %d: %d, %v", key, previous, revision, err)
					return
				}
				mutex.Lock()
				acknowledged[revision] = fmt.Sprintf("%s=%d", key, count)
				mutex.Unlock()
				previous = revision
			}
		})
	}
	group.Wait()

	rows, err := db.Query("SELECT id, name, value FROM kine ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	found := 0
	for rows.Next() {
		var id int64
		var name, value string
		if err := rows.Scan(&id, &name, &value); err != nil {
			t.Fatal(err)
		}
		if acknowledged[id] != name+"="+value {
			t.Errorf("revision %d is %s=%s, acknowledged was %q", id, name, value, acknowledged[id])
		}
		found++
	}
	if err := rows.Err(); err != nil || found != writers*each {
		t.Errorf("%d rows, want %d; %v", found, writers*each, err)
	}
}

func TestOneOfManyWritersOfOneRevisionWins(t *testing.T) {
	writer, _ := testWriter(t, 10)
	for round := range 10 {
		var group sync.WaitGroup
		var mutex sync.Mutex
		won := 0
		for number := range 8 {
			group.Go(func() {
				revision, err := writer.Write(context.Background(), &write{
					key: fmt.Sprintf("/shared/%d", round), created: true, value: fmt.Appendf(nil, "%d", number),
				})
				mutex.Lock()
				defer mutex.Unlock()
				if err != nil {
					t.Error(err)
				} else if revision != 0 {
					won++
				}
			})
		}
		group.Wait()
		if won != 1 {
			t.Errorf("round %d: %d writers created the key", round, won)
		}
	}
}

func TestInsertTellsWhichOfABatchWereMade(t *testing.T) {
	_, db := testWriter(t, 0)
	conn, err := db.Conn(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	item := func(key string, previous int64) *write {
		return &write{key: key, previous: previous, value: []byte(key), attempt: rand.Int64()}
	}
	steps := []struct {
		batch []*write
		want  []int64
	}{
		{[]*write{item("/a", 0), item("/b", 0), item("/c", 0)}, []int64{1, 2, 3}},
		{[]*write{item("/a", 0), item("/b", 0)}, []int64{0, 0}},
		{[]*write{item("/a", 1), item("/b", 1), item("/d", 0)}, []int64{4, 0, 5}},
		{[]*write{item("/x", 7), item("/c", 3)}, []int64{0, 6}},
		{[]*write{item("/a", 1)}, []int64{0}},
	}
	for number, step := range steps {
		got, err := insert(context.Background(), conn, step.batch)
		if err != nil || !slices.Equal(got, step.want) {
			t.Fatalf("step %d: %v, %v, want %v", number, got, err, step.want)
		}
	}
}

func TestAWriteEndsWithItsRequest(t *testing.T) {
	writer, _ := testWriter(t, 0)
	writer.Slot.Lock()
	defer writer.Slot.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := writer.Write(ctx, &write{key: "/late", created: true}); err != context.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}
