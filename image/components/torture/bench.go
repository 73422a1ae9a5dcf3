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

// benchCommand makes a number of writes as fast as a number of writers can, without a journal: half of them create
// objects of 1 KiB, half change them.
func benchCommand(ctx context.Context, arguments []string) (any, error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	target := targetFlags(flags)
	writers := flags.Int("writers", 8, "how many write at once")
	writes := flags.Int("writes", 2000, "how many writes in all")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	run := fmt.Sprintf("%sbench/%08x", target.prefix, rand.Uint32())
	tally := &tally{started: time.Now()}
	failures := make(chan error, *writers)
	var group sync.WaitGroup
	for number := range *writers {
		client, err := target.connect()
		if err != nil {
			return nil, err
		}
		defer client.Close()
		s := target.store(client)
		group.Go(func() {
			failures <- benchWriter(ctx, s, tally, fmt.Sprintf("%s/%d", run, number), *writes / *writers)
		})
	}
	group.Wait()
	close(failures)
	for failure := range failures {
		if failure != nil {
			return nil, failure
		}
	}
	return tally.result(), nil
}

func benchWriter(ctx context.Context, s *store, tally *tally, folder string, writes int) error {
	value := strings.Repeat("x", 1024)
	previous := int64(0)
	for number := range writes {
		// Each key is created by the even write and changed by the odd one.
		if number%2 == 0 {
			previous = 0
		}
		started := time.Now()
		revision, err := s.apply(ctx, fmt.Sprintf("%s/%06d", folder, number/2), previous, value)
		if err != nil {
			return err
		}
		if revision == 0 {
			return fmt.Errorf("%s: a conflict with nobody", folder)
		}
		tally.add(made, started, time.Now())
		previous = revision
	}
	return nil
}
