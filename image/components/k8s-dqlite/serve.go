// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/logstructured/sqllog"
	"github.com/k3s-io/kine/pkg/server"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// kine's settings, each for a reason measured in docs/datastore.md.
const (
	// How often a watch without events is told the revision. API servers ask when they need to know; this is for their
	// clients' bookmarks, which must be newer than the oldest revision kept. Each time wakes every watch on both sides.
	notifyInterval   = time.Minute
	pollBatch        = 500
	compactJitter    = 10 // per cent: several members compact, the later ones find nothing to do
	compactTimeout   = 5 * time.Second
	compactMinRetain = 1000
	compactBatch     = 1000
	emulatedVersion  = "3.5.13" // what kine itself claims: kube-apiserver asks for features by it

	maxRequest   = 2 << 20 // etcd's limit of 1.5 MiB for a request, and what goes around it
	maxOpenConns = 24
	maxIdleConns = 6

	drainTimeout = 2 * time.Second
	// systemd is told to wait longer (TimeoutStopSec=); nothing here is worth waiting for, all is on disk.
	closeTimeout = 3 * time.Second
)

// Run is the whole life of the daemon; it returns when the context ends, having shut down in order.
func Run(ctx context.Context, s Settings) error {
	storage, err := OpenStorage(s.StorageDir, len(s.Cluster) > 0)
	if err != nil {
		return err
	}
	defer storage.Close()
	moved, err := moveAddress(s.StorageDir, s.Address)
	if err != nil {
		return err
	}
	if moved {
		notify("STATUS=Shortening the log for those who will join")
		if err := shortenLog(ctx, s); err != nil {
			// Nobody's data depends on it; joining takes longer.
			logrus.Warnf("the log stays as long as it is: %v", err)
		}
	}
	notify("STATUS=Starting the dqlite node")
	member, err := StartMember(ctx, s)
	if err != nil {
		return err
	}
	defer closeBounded(member)

	registry := newRegistry()
	// Not the context of the signal: requests in flight are answered before the database goes.
	dbCtx, dbEnd := context.WithCancel(context.Background())
	defer dbEnd()
	store, err := openBackend(dbCtx, s, member, registry)
	if err != nil {
		return err
	}
	if err := storage.Finish(); err != nil {
		return err
	}

	control, err := serveControl(s, member, store, registry)
	if err != nil {
		return err
	}
	defer control.Close()
	requests, failed, err := serveRequests(s, store)
	if err != nil {
		return err
	}
	notify("READY=1\nSTATUS=Serving")
	logrus.Infof("serving the etcd API at %s", s.Listen)
	go watchdog(ctx, member.Alive)

	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	notify("STOPPING=1\nSTATUS=Handing over")
	drain(requests)
	member.HandOver()
	return err
}

// openBackend opens the database on the leader, makes the table, and starts kine on it.
func openBackend(ctx context.Context, s Settings, m *Member, registry prometheus.Registerer) (*backend, error) {
	newest, known := &horizon{}, &names{}
	opener, err := m.Connector(s, newest)
	if err != nil {
		return nil, err
	}
	pool := generic.ConnectionPoolConfig{MaxIdle: maxIdleConns, MaxOpen: maxOpenConns}
	if s.Secured() {
		// A connection to another member is too dear to be thrown away.
		pool.MaxIdle = maxOpenConns
	}
	work := &sync.WaitGroup{}
	base, err := generic.OpenDB(ctx, work, "dqlite", opener, pool, "?", false, registry)
	if err != nil {
		return nil, err
	}
	if err := applySchema(ctx, base.DB); err != nil {
		return nil, err
	}
	if !s.Secured() {
		if err := known.load(ctx, base.DB); err != nil {
			return nil, err
		}
	}
	writer := NewWriter(base.DB)
	go writer.Run(ctx)
	log := sqllog.New(newDialect(base, writer, known, newest), work, &drivers.Config{
		CompactInterval:       s.Compact,
		CompactIntervalJitter: compactJitter,
		CompactTimeout:        compactTimeout,
		CompactMinRetain:      compactMinRetain,
		CompactBatchSize:      compactBatch,
		PollInterval:          s.pace().poll,
		PollBatchSize:         pollBatch,
	})
	store := newBackend(log, newest, known)
	return store, store.Start(ctx)
}

// serveRequests opens the socket of the etcd API. kine's own endpoint.Listen would do, but it brings every database
// driver kine knows, half of the program's size, and a socket for its owner only.
func serveRequests(s Settings, store server.Backend) (*grpc.Server, <-chan error, error) {
	listener, err := listenUnix(s.Listen, 0o660)
	if err != nil {
		return nil, nil, err
	}
	requests := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(math.MaxUint32),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Hour, Timeout: 20 * time.Second}),
	)
	server.New(store, "unix", notifyInterval, emulatedVersion).Register(requests)
	failed := make(chan error, 1)
	go func() {
		if err := requests.Serve(listener); err != nil {
			failed <- fmt.Errorf("etcd API: %w", err)
		}
	}()
	return requests, failed, nil
}

// listenUnix opens a unix socket, in place of one a killed process left behind.
func listenUnix(path string, mode os.FileMode) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// The folder (RuntimeDirectoryMode=) keeps strangers out between the two calls.
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// drain lets requests end. Watches never do: they are cut after a while and taken up again elsewhere or later.
func drain(requests *grpc.Server) {
	timer := time.AfterFunc(drainTimeout, requests.Stop)
	defer timer.Stop()
	requests.GracefulStop()
}

// closeBounded stops the node, but does not wait for ever: it is safe to be killed at any time.
func closeBounded(m *Member) {
	done := make(chan error, 1)
	go func() { done <- m.Close() }()
	select {
	case err := <-done:
		if err != nil {
			logrus.Warnf("dqlite: %v", err)
		}
	case <-time.After(closeTimeout):
		logrus.Warn("dqlite did not stop in time, leaving it")
	}
}
