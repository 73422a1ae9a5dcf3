// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Event is one revision of one key, as the store tells it to a watch.
type Event struct {
	Key      string
	Revision int64
	Value    string
	Deleted  bool
}

// History is everything the store says.
type History struct {
	From   int64 // events from here on are all there: earlier ones may have been compacted
	Events []Event
	Final  map[string]state // keys that exist now
}

// readHistory replays a watch from a revision up to now, and lists what exists.
func readHistory(ctx context.Context, s *store, from int64) (History, error) {
	// A write of one's own marks the end of the history: the watch has told all when it tells this one.
	marks := s.prefix + "verified/"
	end := fmt.Sprintf("%s%016x", marks, rand.Uint64())
	last, err := s.apply(ctx, end, 0, end)
	if err != nil {
		return History{}, err
	}
	if last == 0 {
		return History{}, fmt.Errorf("%s: a conflict with nobody", end)
	}
	history := History{From: max(from, 1)}
	for {
		compacted, err := history.watch(ctx, s, last)
		if err != nil {
			return history, err
		}
		if compacted == 0 {
			break
		}
		history.From, history.Events = compacted+1, nil
	}
	history.Final, err = list(ctx, s)
	maps.DeleteFunc(history.Final, func(key string, _ state) bool { return strings.HasPrefix(key, marks) })
	history.Events = slices.DeleteFunc(history.Events, func(event Event) bool { return strings.HasPrefix(event.Key, marks) })
	return history, err
}

// watch collects events up to the last one; it returns the compacted revision when asked to start before that.
func (h *History) watch(ctx context.Context, s *store, last int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for answer := range s.client.Watch(ctx, s.prefix, clientv3.WithPrefix(), clientv3.WithRev(h.From)) {
		if answer.CompactRevision != 0 {
			return answer.CompactRevision, nil
		}
		if err := answer.Err(); err != nil {
			return 0, err
		}
		for _, each := range answer.Events {
			h.Events = append(h.Events, Event{
				Key: string(each.Kv.Key), Revision: each.Kv.ModRevision,
				Value: string(each.Kv.Value), Deleted: each.Type == clientv3.EventTypeDelete,
			})
			if each.Kv.ModRevision >= last {
				return 0, nil
			}
		}
	}
	return 0, errors.Join(errors.New("the watch ended before it told everything"), ctx.Err())
}

func list(ctx context.Context, s *store) (map[string]state, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	answer, err := s.client.Get(ctx, s.prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	final := map[string]state{}
	for _, each := range answer.Kvs {
		final[string(each.Key)] = state{revision: each.ModRevision, value: string(each.Value)}
	}
	return final, nil
}
