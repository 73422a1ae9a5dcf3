// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

// measured is what a load was answered: Latencies in milliseconds, of requests that went well.
type measured struct {
	Count   int     `json:"count"`
	Failed  int     `json:"failed"`
	Seconds float64 `json:"seconds"`
	P50     float64 `json:"p50"`
	P99     float64 `json:"p99"`
}

// load asks for a URL over some connections for a time, each with the next request when it has the answer to the last.
func load(ctx context.Context, url, host, seconds, connections string) int {
	duration, err := time.ParseDuration(seconds + "s")
	count, bad := strconv.Atoi(connections)
	if err != nil || bad != nil {
		fmt.Fprintln(os.Stderr, "usage: testpod load URL HOST SECONDS CONNECTIONS")
		return 2
	}
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: count}}
	taken, failed := make([][]time.Duration, count), make([]int, count)
	started := time.Now()
	var all sync.WaitGroup
	for number := range count {
		all.Go(func() {
			for ctx.Err() == nil {
				begun := time.Now()
				err := once200(ctx, client, url, host)
				switch {
				case err == nil:
					taken[number] = append(taken[number], time.Since(begun))
				case ctx.Err() == nil:
					failed[number]++
				}
			}
		})
	}
	all.Wait()
	result := measured{Seconds: time.Since(started).Seconds()}
	latencies := slices.Concat(taken...)
	slices.Sort(latencies)
	result.Count = len(latencies)
	for _, each := range failed {
		result.Failed += each
	}
	if result.Count > 0 {
		result.P50 = milliseconds(latencies[result.Count/2])
		result.P99 = milliseconds(latencies[result.Count*99/100])
	}
	json.NewEncoder(os.Stdout).Encode(result)
	return 0
}

func milliseconds(duration time.Duration) float64 {
	return float64(duration.Microseconds()) / 1000
}

func once200(ctx context.Context, client *http.Client, url, host string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Host = host
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", response.StatusCode)
	}
	return nil
}
