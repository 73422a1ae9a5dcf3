// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

const (
	sharedMark = "/shared/"
	sharedKeys = 4
	// While the store is down there is no use in asking it more often.
	downPause = 20 * time.Millisecond
)

// WriteResult is what `write` prints.
type WriteResult struct {
	Made       int     `json:"made"`
	Conflicts  int     `json:"conflicts"`
	Unknown    int     `json:"unknown"`
	Seconds    float64 `json:"seconds"`
	PerSecond  float64 `json:"per_second"`
	P50        float64 `json:"p50_ms"`
	P99        float64 `json:"p99_ms"`
	LongestGap float64 `json:"longest_gap_s"` // between two acknowledgements to anybody
}

func writeCommand(ctx context.Context, arguments []string) (any, error) {
	flags := flag.NewFlagSet("write", flag.ContinueOnError)
	target := targetFlags(flags)
	path := flags.String("journal", "", "file to keep the journal in, - for standard output")
	add := flags.Bool("append", false, "go on with an existing journal")
	writers := flags.Int("writers", 8, "how many write at once")
	duration := flags.Duration("duration", 20*time.Second, "how long")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	journal, err := OpenJournal(*path, *add)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, *duration)
	defer cancel()
	run := fmt.Sprintf("%08x", rand.Uint32())
	tally := &tally{started: time.Now()}
	var group sync.WaitGroup
	failures := make(chan error, *writers)
	for number := range *writers {
		client, err := target.connect()
		if err != nil {
			return nil, err
		}
		defer client.Close()
		w := &writer{
			store: *target.store(client), journal: journal, tally: tally, run: run, number: number,
			own: map[string]int64{},
		}
		group.Go(func() { failures <- w.work(ctx) })
	}
	group.Wait()
	close(failures)
	for failure := range failures {
		if failure != nil {
			return nil, failure
		}
	}
	if *path == "-" {
		return nil, nil
	}
	return tally.result(), nil
}

// writer does what one client of kube-apiserver may cause: objects of its own, and objects others write too.
type writer struct {
	store   store
	journal *Journal
	tally   *tally
	run     string
	number  int
	count   int
	own     map[string]int64 // keys nobody else writes, with the revision they have for certain
	names   []string         // the same keys, to choose from
}

func (w *writer) work(ctx context.Context) error {
	for ctx.Err() == nil {
		key, previous, remove, err := w.choose(ctx)
		if err != nil {
			pause(ctx)
			continue
		}
		record := Record{Run: w.run, Writer: w.number, Number: w.count, Key: key, Previous: previous}
		if !remove {
			record.Value = w.value()
		}
		w.count++
		if err := w.make(ctx, record); err != nil {
			return err
		}
	}
	return nil
}

// choose decides the next write: 45 % new objects, 25 % changed ones, 10 % deleted ones, 20 % on objects all contend for.
func (w *writer) choose(ctx context.Context) (key string, previous int64, remove bool, err error) {
	dice := rand.IntN(100)
	switch {
	case dice < 20:
		key = fmt.Sprintf("%s%s%d", strings.TrimSuffix(w.store.prefix, "/"), sharedMark, rand.IntN(sharedKeys))
		found, err := w.store.read(ctx, key)
		return key, found.revision, found.revision != 0 && dice < 3, err
	case dice < 55 && len(w.names) > 0:
		key = w.names[rand.IntN(len(w.names))]
		return key, w.own[key], dice < 30, nil
	}
	return fmt.Sprintf("%s%s/w%d/%06d", w.store.prefix, w.run, w.number, w.count), 0, false, nil
}

// value is unique, of the sizes objects have, and says who wrote it.
func (w *writer) value() string {
	size := 100 + rand.IntN(1900)
	return fmt.Sprintf("%s/%d/%d/%s", w.run, w.number, w.count, strings.Repeat("x", size))
}

// make does one write, keeps it in the journal, and goes on from what it was told.
func (w *writer) make(ctx context.Context, record Record) error {
	started := time.Now()
	record.Started = started.UnixNano()
	// A request under way is not cut off by the end of the run: the answer is waited for.
	revision, err := w.store.apply(context.WithoutCancel(ctx), record.Key, record.Previous, record.Value)
	ended := time.Now()
	record.Ended, record.Revision = ended.UnixNano(), revision
	switch {
	case err != nil:
		record.Outcome, record.Error = unknown, err.Error()
	case revision == 0:
		record.Outcome = conflict
	default:
		record.Outcome = made
	}
	if err := w.journal.Add(record); err != nil {
		return err
	}
	w.tally.add(record.Outcome, started, ended)
	w.learn(record)
	if err != nil {
		pause(ctx)
	}
	return nil
}

// learn keeps the own keys' revisions. A key whose write has no known outcome is never touched again, so that it shows
// in the end either state, and a conflict on a key that is touched is a mistake of the store.
func (w *writer) learn(record Record) {
	if strings.Contains(record.Key, sharedMark) {
		return
	}
	if record.Outcome == made && record.Value != "" {
		if record.Previous == 0 {
			w.names = append(w.names, record.Key)
		}
		w.own[record.Key] = record.Revision
		return
	}
	delete(w.own, record.Key)
	for i, name := range w.names {
		if name == record.Key {
			w.names = append(w.names[:i], w.names[i+1:]...)
			return
		}
	}
}

func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(downPause):
	}
}
