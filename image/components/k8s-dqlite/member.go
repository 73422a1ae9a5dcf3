// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql/driver"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	godqlite "github.com/canonical/go-dqlite/v2"
	"github.com/canonical/go-dqlite/v2/app"
	"github.com/canonical/go-dqlite/v2/client"
	dqlite "github.com/canonical/go-dqlite/v2/driver"
	"github.com/sirupsen/logrus"
	"gopkg.in/yaml.v2"
)

const (
	// Raft entries between two snapshots, and how many are kept behind one. go-dqlite's own numbers are meant for
	// small entries; kine's carry whole pages, and all of the log is also held in memory.
	snapshotThreshold = 512
	snapshotTrailing  = 512

	leaderInterval  = 250 * time.Millisecond
	aloneInterval   = 5 * time.Second
	questionTimeout = time.Second     // for the own node
	attemptTimeout  = 5 * time.Second // to find the leader and to open a connection there
	handoverTimeout = 5 * time.Second
	// Joining copies the whole database; everything else at start is quick.
	readyTimeout = 4 * time.Minute
)

var ordinarySnapshots = godqlite.SnapshotParams{Threshold: snapshotThreshold, Trailing: snapshotTrailing}

// Member is this machine's part of the dqlite cluster.
type Member struct {
	app     *app.App
	network *Network
	links   *Links
	store   memberStore
	stop    context.CancelFunc
}

// StartMember starts the dqlite node, which bootstraps a cluster or joins one if its folder is new.
func StartMember(ctx context.Context, s Settings) (*Member, error) {
	return startMember(ctx, s, ordinarySnapshots)
}

func startMember(ctx context.Context, s Settings, snapshots godqlite.SnapshotParams) (*Member, error) {
	network, err := NewNetwork(s)
	if err != nil {
		return nil, err
	}
	options := []app.Option{
		app.WithAddress(s.Address),
		app.WithCluster(s.Cluster),
		// The channel stays empty: connections are admitted by Network.Serve.
		app.WithExternalConn(network.Dial, make(chan net.Conn)),
		app.WithUnixSocket(network.socket),
		app.WithNetworkLatency(s.pace().latency),
		app.WithRolesAdjustmentFrequency(s.pace().roles),
		app.WithFailureDomain(failureDomain(s.Zone)),
		app.WithSnapshotParams(snapshots),
		// Recovery by itself means deleting what cannot be read. That is for a person to decide.
		app.WithAutoRecovery(false),
		app.WithLogFunc(logDqlite),
	}
	started, err := app.New(s.StorageDir, options...)
	if err != nil {
		return nil, fmt.Errorf("dqlite: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	m := &Member{
		app: started, network: network, links: NewLinks(network), stop: stop,
		store: memberStore(filepath.Join(s.StorageDir, "cluster.yaml")),
	}
	if err := network.Serve(ctx); err != nil {
		m.Close()
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := started.Ready(within); err != nil {
		m.Close()
		return nil, fmt.Errorf("no leader found: %w", err)
	}
	go m.followLeader(ctx)
	return m, nil
}

// Connector opens connections to the database on the leader, wherever it is.
func (m *Member) Connector(s Settings, newest *horizon) (driver.Connector, error) {
	tracing := client.LogNone
	if s.Tracing {
		tracing = client.LogDebug
	}
	leaders, err := dqlite.New(leaderStore{m},
		dqlite.WithDialFunc(m.links.Dial),
		dqlite.WithAttemptTimeout(attemptTimeout),
		dqlite.WithConnectionBackoffFactor(20*time.Millisecond),
		dqlite.WithConnectionBackoffCap(200*time.Millisecond),
		dqlite.WithLogFunc(logDqlite),
		dqlite.WithTracing(tracing),
	)
	if err != nil {
		return nil, err
	}
	inner, err := leaders.OpenConnector(databaseName)
	if err != nil {
		return nil, err
	}
	return connector{inner, newest}, nil
}

// Alive asks the own node anything at all.
func (m *Member) Alive(ctx context.Context) error {
	_, err := m.Leader(ctx)
	return err
}

// Leader asks the own node who leads; the address is empty when it knows of nobody.
func (m *Member) Leader(ctx context.Context) (*client.NodeInfo, error) {
	local, err := m.app.Client(ctx)
	if err != nil {
		return nil, err
	}
	defer local.Close()
	return local.Leader(ctx)
}

// Members returns all members with their roles, as the leader knows them.
func (m *Member) Members(ctx context.Context) ([]client.NodeInfo, error) {
	leader, err := m.app.FindLeader(ctx)
	if err != nil {
		return nil, err
	}
	defer leader.Close()
	return leader.Cluster(ctx)
}

// Dump returns the files of the database as the leader has them at one moment.
func (m *Member) Dump(ctx context.Context) ([]client.File, error) {
	leader, err := m.app.FindLeader(ctx)
	if err != nil {
		return nil, err
	}
	defer leader.Close()
	return leader.Dump(ctx, databaseName)
}

// followLeader closes connections to a leader that no longer is one, as soon as the own node hears of the new one.
func (m *Member) followLeader(ctx context.Context) {
	known := ""
	for {
		// Alone there is nobody else to lead, and an idle node shall be idle.
		members, err := m.store.Get(ctx)
		alone := err == nil && len(members) < 2
		interval := leaderInterval
		if alone {
			interval = aloneInterval
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(interval):
		}
		if alone {
			continue
		}
		within, cancel := context.WithTimeout(ctx, questionTimeout)
		leader, err := m.Leader(within)
		cancel()
		if err != nil || leader == nil || leader.Address == "" || leader.Address == known {
			continue
		}
		if known != "" {
			m.links.CloseAllBut(leader.Address)
		}
		known = leader.Address
	}
}

// HandOver gives leadership and vote to another member, if there is one, so that the cluster need not notice the loss.
func (m *Member) HandOver() {
	members, err := m.store.Get(context.Background())
	if err == nil && len(members) < 2 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), handoverTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- m.app.Handover(ctx) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		logrus.Warnf("handover: %v", err)
	}
}

// Close stops the node.
func (m *Member) Close() error {
	m.stop()
	return m.app.Close()
}

// memberStore reads the list of members go-dqlite's app maintains in a file, so that this process's own database
// connections find members that joined later. It never writes it.
type memberStore string

func (s memberStore) Get(context.Context) ([]client.NodeInfo, error) {
	data, err := os.ReadFile(string(s))
	if err != nil {
		return nil, err
	}
	var members []client.NodeInfo
	return members, yaml.Unmarshal(data, &members)
}

func (s memberStore) Set(context.Context, []client.NodeInfo) error { return nil }

// leaderStore names the leader alone as long as the own node knows it. go-dqlite asks all members at once who leads
// whenever a connection is opened; on machines that are busy already, dozens of handshakes would follow.
type leaderStore struct{ member *Member }

func (s leaderStore) Get(ctx context.Context) ([]client.NodeInfo, error) {
	within, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	leader, err := s.member.Leader(within)
	if err == nil && leader != nil && leader.Address != "" {
		return []client.NodeInfo{*leader}, nil
	}
	return s.member.store.Get(ctx)
}

func (s leaderStore) Set(context.Context, []client.NodeInfo) error { return nil }

func logDqlite(level client.LogLevel, format string, arguments ...any) {
	// While looking for the leader each member that is not it, or does not know it yet, is a warning to go-dqlite. It is
	// every start and every election; that no leader was found in the end is an error of whoever asked.
	if level == client.LogWarn && strings.HasPrefix(format, "attempt ") {
		level = client.LogDebug
	}
	switch level {
	case client.LogError:
		logrus.Errorf("dqlite: "+format, arguments...)
	case client.LogWarn:
		logrus.Warnf("dqlite: "+format, arguments...)
	default:
		// What go-dqlite calls information is about each connection.
		logrus.Debugf("dqlite: "+format, arguments...)
	}
}
