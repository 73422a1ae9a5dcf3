// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"time"
)

// VerifyResult is what `verify` prints.
type VerifyResult struct {
	Records   int            `json:"records"`
	Made      int            `json:"made"`      // acknowledged writes
	Compared  int            `json:"compared"`  // of these, not compacted: looked for one by one
	Survivors int            `json:"survivors"` // of the others, the newest of their keys: must have survived compaction
	Unknown   int            `json:"unknown"`   // writes without an answer
	Happened  int            `json:"happened"`  // of these, found
	Events    int            `json:"events"`    // in the store's history
	Broken    map[string]int `json:"broken"`    // promises broken, by kind
	Instances []string       `json:"instances"` // the first of them in words
}

const shownInstances = 20

func (r *VerifyResult) broken(kind, format string, arguments ...any) {
	r.Broken[kind]++
	if len(r.Instances) < shownInstances {
		r.Instances = append(r.Instances, kind+": "+fmt.Sprintf(format, arguments...))
	}
}

func verifyCommand(ctx context.Context, arguments []string) (any, error) {
	flags := flag.NewFlagSet("verify", flag.ContinueOnError)
	target := targetFlags(flags)
	path := flags.String("journal", "", "file with the journal")
	wait := flags.Duration("wait", 30*time.Second, "how long the store may take to answer at all")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	records, err := ReadJournal(*path)
	if err != nil {
		return nil, err
	}
	client, err := target.connect()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	s := target.store(client)
	if err := answers(ctx, s, *wait); err != nil {
		return nil, err
	}
	history, err := readHistory(ctx, s, firstRevision(records))
	if err != nil {
		return nil, err
	}
	result := Verify(records, history)
	if len(result.Broken) > 0 {
		return result, errBroken
	}
	return result, nil
}

// answers waits until the store answers a read.
func answers(ctx context.Context, s *store, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	for {
		_, err := s.read(ctx, s.prefix)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		pause(ctx)
	}
}

func firstRevision(records []Record) int64 {
	first := int64(math.MaxInt64)
	for _, record := range records {
		if record.Outcome == made {
			first = min(first, record.Revision)
		}
	}
	if first == math.MaxInt64 {
		return 1
	}
	return first
}

// Verify compares what writers were told with what the store tells.
func Verify(records []Record, history History) VerifyResult {
	result := VerifyResult{Records: len(records), Events: len(history.Events), Broken: map[string]int{}}
	c := newComparison(&result, records, history)
	c.acknowledged()
	c.explained()
	c.final()
	c.survivors()
	c.order()
	c.conflicts()
	return result
}
