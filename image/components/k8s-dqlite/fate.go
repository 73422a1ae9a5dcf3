// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"time"

	dqlite "github.com/canonical/go-dqlite/v2/driver"
	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// fate is what became of a statement that returned an error.
type fate int

const (
	refused fate = iota // not executed, and trying again would not change that
	busy                // not executed because another transaction was writing: dqlite says so at once, sqlite would wait
	unknown             // executed or not: the answer was lost, with the connection or with the leadership
)

// SQLite's primary result codes that matter here; the higher bits of a code tell details.
const (
	codeBusy     = 5
	codeLocked   = 6
	codeIOError  = 10
	codeProtocol = 15
)

// fateOf reads an error of database/sql over go-dqlite. What is not understood counts as unknown, the only answer that
// is never wrong: go-dqlite turns most trouble with a connection, before or after sending, into the same bad connection.
func fateOf(err error) fate {
	var refusal dqlite.Error
	if !errors.As(err, &refusal) {
		return unknown
	}
	switch refusal.Code & 0xff {
	case codeBusy, codeLocked, codeProtocol:
		return busy
	case codeIOError:
		// Raft reports its own troubles this way, among them the loss of leadership after the entry was sent out.
		return unknown
	}
	return refused
}

// pause waits for a random time between two bounds, or until the context ends. Random, because writers that were turned
// away together come back together otherwise; short and never growing, because the holder of the lock is done within
// milliseconds and growing pauses let newcomers overtake.
func pause(ctx context.Context, least, most time.Duration) error {
	timer := time.NewTimer(least + rand.N(most-least))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// translate gives the client etcd's own errors, which kube-apiserver knows how to treat.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, errTimedOut):
		return errTimedOut
	case errors.Is(err, driver.ErrBadConn):
		return rpctypes.ErrGRPCLeaderChanged
	case errors.Is(err, dqlite.ErrNoAvailableLeader):
		return server.ErrNoLeader
	}
	return err
}
