// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	// A write that could not be made within this time is given up; etcd's own limit is about the same. It spans the
	// election of a new leader.
	writeLimit = 10 * time.Second
	// What goes into one statement at most. The bound on bytes keeps raft's entries, and the wait of the first writer
	// for the last one, small.
	batchWrites = 48
	batchBytes  = 1 << 20
)

// errTimedOut is what etcd says when a write may or may not have happened.
var errTimedOut = rpctypes.ErrGRPCTimeout

// write is one revision to be added: "if the key's newest revision is previous, add this one".
type write struct {
	key              string
	created, deleted bool
	previous, lease  int64
	value            []byte

	attempt   int64     // identifies the write through all its repetitions
	deadline  time.Time // no repetition after this
	cancelled <-chan struct{}
	inDoubt   bool // a repetition's answer was lost: it may be there already
	done      chan outcome
}

// outcome is the new revision, or 0 when the key's newest revision was another one.
type outcome struct {
	revision int64
	err      error
}

// Writer makes all writes of this process, one statement at a time, each with all that waits by then.
//
// A single writer, because dqlite does not queue: of two concurrent transactions one is told BUSY. And since all who
// wait travel in one statement, and so in one raft entry and one write to the disk, eight writers are about as fast
// as one, each. Members write concurrently all the same, so BUSY still happens, and is waited out.
//
// A write whose answer was lost is simply made again: it is conditional on the previous revision, so at most one
// repetition ever takes effect, and the one that did is known by its attempt number.
type Writer struct {
	db    *sql.DB
	queue chan *write
	// Slot is held while a statement of the writer, or another transaction that writes, is on its way.
	Slot   sync.Mutex
	held   *write // taken from the queue but left for the next batch
	recent recent
}

// NewWriter returns a writer; Run makes it work.
func NewWriter(db *sql.DB) *Writer {
	return &Writer{db: db, queue: make(chan *write, 4*batchWrites)}
}

// Write queues a write and waits for its outcome.
func (w *Writer) Write(ctx context.Context, item *write) (int64, error) {
	item.attempt = 1 + rand.Int64N(1<<62)
	item.deadline = time.Now().Add(writeLimit)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(item.deadline) {
		item.deadline = deadline
	}
	item.cancelled = ctx.Done()
	item.done = make(chan outcome, 1)
	select {
	case w.queue <- item:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	select {
	case result := <-item.done:
		return result.revision, result.err
	case <-ctx.Done():
		// Nobody waits for the answer any more. The write may still be made, as with any etcd request cut short.
		return 0, ctx.Err()
	}
}

// Run works until the context ends and then fails what is left.
func (w *Writer) Run(ctx context.Context) {
	for {
		first := w.next(ctx)
		if first == nil {
			break
		}
		w.settle(ctx, w.gather(first))
	}
	for {
		select {
		case item := <-w.queue:
			item.fail(context.Canceled)
		default:
			return
		}
	}
}

func (w *Writer) next(ctx context.Context) *write {
	if item := w.held; item != nil {
		w.held = nil
		return item
	}
	select {
	case item := <-w.queue:
		return item
	case <-ctx.Done():
		return nil
	}
}

// gather adds what waits, up to the limits. Two writes of one key never share a statement, which could not tell
// whether the second one's condition holds; so the batch ends there.
func (w *Writer) gather(first *write) []*write {
	batch := []*write{first}
	keys := map[string]bool{first.key: true}
	bytes := len(first.value)
	for len(batch) < batchWrites {
		select {
		case item := <-w.queue:
			bytes += len(item.value)
			if keys[item.key] || bytes > batchBytes {
				w.held = item
				return batch
			}
			keys[item.key] = true
			batch = append(batch, item)
		default:
			return batch
		}
	}
	return batch
}

// settle repeats a batch until each of its writes has an outcome.
func (w *Writer) settle(ctx context.Context, batch []*write) {
	for {
		batch = dropExpired(ctx, batch)
		if len(batch) == 0 {
			return
		}
		left, err := w.once(ctx, batch)
		if len(left) == 0 {
			return
		}
		batch = left
		switch fateOf(err) {
		case refused:
			w.settleApart(ctx, batch, err)
			return
		case busy:
			busyRetries.Inc()
			_ = pause(ctx, time.Millisecond, 7*time.Millisecond)
		case unknown:
			answersLost.Inc()
			logrus.Infof("the answer to %d writes was lost, asking again: %v", len(batch), err)
			_ = pause(ctx, 5*time.Millisecond, 25*time.Millisecond)
		}
	}
}

// settleApart makes the writes of a refused batch one by one: one value that SQLite refuses must not fail the others.
func (w *Writer) settleApart(ctx context.Context, batch []*write, err error) {
	if len(batch) == 1 {
		batch[0].fail(err)
		return
	}
	for _, item := range batch {
		w.settle(ctx, []*write{item})
	}
}

// once makes one attempt and gives outcomes to the writes that got one; it returns the others and the reason.
func (w *Writer) once(ctx context.Context, batch []*write) ([]*write, error) {
	w.Slot.Lock()
	defer w.Slot.Unlock()
	within, cancel := context.WithDeadline(ctx, latest(batch))
	defer cancel()
	// A connection of one's own: database/sql silently repeats a statement when a pooled connection turns out bad,
	// even though the first one may have been executed.
	conn, err := w.db.Conn(within)
	if err != nil {
		return batch, err
	}
	defer conn.Close()

	started := time.Now()
	revisions, err := insert(within, conn, batch)
	if err != nil {
		if fateOf(err) == unknown {
			for _, item := range batch {
				item.inDoubt = true
			}
		}
		return batch, err
	}
	writeSeconds.Observe(time.Since(started).Seconds())
	writesPerBatch.Observe(float64(len(batch)))

	for i, item := range batch {
		if revisions[i] == 0 && item.inDoubt {
			// Not added now: because an earlier attempt had been, or because another writer was faster.
			if revisions[i], err = find(within, conn, item); err != nil {
				w.succeed(batch[:i], revisions)
				return batch[i:], lostAfter(err)
			}
			if revisions[i] != 0 {
				answersFound.Inc()
			}
		}
	}
	w.succeed(batch, revisions)
	return nil, nil
}

// succeed gives outcomes to writes, and first to what the poll will ask: whoever has an outcome wakes it.
func (w *Writer) succeed(batch []*write, revisions []int64) {
	w.recent.add(batch, revisions)
	for i, item := range batch {
		item.succeed(revisions[i])
	}
}

func latest(batch []*write) time.Time {
	deadline := batch[0].deadline
	for _, item := range batch[1:] {
		if item.deadline.After(deadline) {
			deadline = item.deadline
		}
	}
	return deadline
}

// dropExpired fails the writes nobody waits for any more.
func dropExpired(ctx context.Context, batch []*write) []*write {
	var left []*write
	for _, item := range batch {
		switch {
		case ctx.Err() != nil || item.isCancelled():
			item.fail(context.Canceled)
		case !time.Now().Before(item.deadline):
			item.fail(errTimedOut)
		default:
			left = append(left, item)
		}
	}
	return left
}

func (i *write) isCancelled() bool {
	select {
	case <-i.cancelled:
		return true
	default:
		return false
	}
}

func (i *write) succeed(revision int64) {
	if revision == 0 {
		writesTotal.WithLabelValues("conflict").Inc()
	} else {
		writesTotal.WithLabelValues("made").Inc()
	}
	i.done <- outcome{revision: revision}
}

func (i *write) fail(err error) {
	writesTotal.WithLabelValues("failed").Inc()
	i.done <- outcome{err: err}
}
