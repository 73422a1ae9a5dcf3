// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"time"

	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/logstructured/sqllog"
	"github.com/k3s-io/kine/pkg/server"
	"github.com/k3s-io/kine/pkg/ttl"
	"github.com/sirupsen/logrus"
)

const (
	// A read that takes longer than this is given up; clients set shorter limits of their own.
	readLimit = 60 * time.Second
	// How long to wait before something that failed is tried again where nobody waits for it.
	pollPause = 100 * time.Millisecond
)

// backend is kine's, with three corrections: results of writes reach the client, expiry of leases does not end for
// good when its watch does, and the current revision is never behind an acknowledged write. And a shortcut: keys that
// were never written are not looked for.
type backend struct {
	server.Backend
	log     *sqllog.SQLLog
	horizon *horizon
	names   *names
}

func newBackend(log *sqllog.SQLLog, newest *horizon, known *names) *backend {
	return &backend{Backend: logstructured.New(log), log: log, horizon: newest, names: known}
}

// Start prepares the table and makes the key kube-apiserver probes.
func (b *backend) Start(ctx context.Context) error {
	if err := b.log.Start(ctx); err != nil {
		return err
	}
	_, err := b.Create(ctx, server.HealthKey, []byte(server.HealthVal), 0)
	if err != nil && !errors.Is(err, server.ErrKeyExists) {
		return err
	}
	go b.expire(ctx)
	return nil
}

// expire deletes keys whose lease is over. kine's worker ends when its watch does, which a slow moment is enough for:
// events and the addresses of dead API servers would then stay for ever.
func (b *backend) expire(ctx context.Context) {
	for {
		ttl.Run(ctx, b)
		if pause(ctx, pollPause, 2*pollPause) != nil {
			return
		}
		logrus.Warn("expiry of leases ended and is started again")
	}
}

// kept is the result of the latest insert of a request. kine's own path for it loses it in two ways:
//
// When an insert fails, Create looks whether the key exists, in a scope whose err hides the insert's; if the key does
// not exist that err is nil, and Create answers that all is well. Update and Delete answer that the condition did not
// hold. With BUSY an everyday event, that lost most writes.
//
// When a key that was deleted is created again, the same scope hides the new revision, and Create answers with whatever
// revision is current by then: often that of another object, upon which the client's next update then fails.
//
// So the result is left with the request, and takes precedence.
type kept struct {
	revision int64
	err      error
}

type keptKey struct{}

func expectWrite(ctx context.Context) (context.Context, *kept) {
	result := &kept{}
	return context.WithValue(ctx, keptKey{}, result), result
}

// remember leaves the result of an insert with its request; one that failed, followed by a good one, is no failure.
func remember(ctx context.Context, revision int64, err error) {
	if result, ok := ctx.Value(keptKey{}).(*kept); ok {
		*result = kept{revision, err}
	}
}

func (b *backend) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	ctx, result := expectWrite(ctx)
	revision, err := b.Backend.Create(ctx, key, value, lease)
	if result.err != nil {
		return 0, translate(result.err)
	}
	if err == nil {
		revision = result.revision
	}
	b.horizon.seen(revision)
	return revision, translate(err)
}

func (b *backend) Update(
	ctx context.Context, key string, value []byte, previous, lease int64,
) (int64, *server.KeyValue, bool, error) {
	ctx, result := expectWrite(ctx)
	revision, kv, updated, err := b.Backend.Update(ctx, key, value, previous, lease)
	if result.err != nil {
		return 0, nil, false, translate(result.err)
	}
	b.horizon.seen(revision)
	return revision, kv, updated, translate(err)
}

func (b *backend) Delete(ctx context.Context, key string, previous int64) (int64, *server.KeyValue, bool, error) {
	ctx, result := expectWrite(ctx)
	revision, kv, deleted, err := b.Backend.Delete(ctx, key, previous)
	if result.err != nil {
		return 0, nil, false, translate(result.err)
	}
	b.horizon.seen(revision)
	return revision, kv, deleted, translate(err)
}

func (b *backend) Get(ctx context.Context, key string, revision int64, keysOnly bool) (int64, *server.KeyValue, error) {
	// In this order: the key was not there at the revision, because it is not there now.
	newest := b.horizon.revision.Load()
	if revision == 0 && newest > 0 && b.names.lacks(key) {
		return newest, nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	current, kv, err := b.Backend.Get(ctx, key, revision, keysOnly)
	b.horizon.seen(current)
	return current, kv, translate(err)
}

func (b *backend) List(
	ctx context.Context, key, end string, limit, revision int64, keysOnly bool,
) (int64, []*server.KeyValue, error) {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	current, kvs, err := b.Backend.List(ctx, key, end, limit, revision, keysOnly)
	b.horizon.seen(current)
	return current, kvs, translate(err)
}

func (b *backend) ListStream(
	ctx context.Context, key, end string, limit, revision int64, keysOnly bool,
) server.ListResult {
	result := b.Backend.ListStream(ctx, key, end, limit, revision, keysOnly)
	b.horizon.seen(result.CurrentRevision)
	return result
}

func (b *backend) Count(ctx context.Context, key, end string, revision int64) (int64, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	current, count, err := b.Backend.Count(ctx, key, end, revision)
	b.horizon.seen(current)
	return current, count, translate(err)
}

func (b *backend) Watch(ctx context.Context, revision int64) server.WatchResult {
	result := b.Backend.Watch(ctx, revision)
	b.horizon.seen(result.CurrentRevision)
	return result
}

// CurrentRevision is kine's cached one or the newest this process has seen, whichever is newer: kine's cache misses
// a revision when two writes end at once, and stays behind until the next.
func (b *backend) CurrentRevision(ctx context.Context) (int64, error) {
	revision, err := b.Backend.CurrentRevision(ctx)
	return max(revision, b.horizon.revision.Load()), translate(err)
}
