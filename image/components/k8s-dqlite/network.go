// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

const (
	dialTimeout = time.Second
	// On a machine that is overloaded a handshake takes long, and giving up only means that another one begins.
	handshakeTimeout = 5 * time.Second
	// Handshakes with other members that this process makes at a time; what is more than that waits for its turn.
	handshakesAtOnce = 4
	// After this long without an acknowledgement from the peer's kernel a connection is dead. TCP's own patience is
	// a quarter of an hour.
	deadPeerTimeout = 5 * time.Second
)

// Network is how this member reaches its own dqlite node and the others, and how they reach it.
//
// The node itself listens on an abstract unix socket only, and libdqlite lets nobody but its own process connect
// there. (By go-dqlite's own defaults it would listen on plain TCP when there is no TLS, open to every process of
// the machine.) What comes from the network comes through Serve, with a certificate; without TLS there is no Serve.
type Network struct {
	address string // of this member
	socket  string // of the dqlite node
	turns   chan struct{}

	identity *identity // nil: nobody is let in, and nobody else is reached
}

// NewNetwork reads the certificates, if there are any.
func NewNetwork(s Settings) (*Network, error) {
	random := make([]byte, 8)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	n := &Network{
		address: s.Address, socket: "@k8s-dqlite-" + hex.EncodeToString(random), turns: make(chan struct{}, handshakesAtOnce),
	}
	if !s.Secured() {
		return n, nil
	}
	identity, err := newIdentity(s)
	if err != nil {
		return nil, err
	}
	n.identity = identity
	return n, nil
}

// Dial connects to a member; the own one is reached without the network.
func (n *Network) Dial(ctx context.Context, address string) (net.Conn, error) {
	if address == n.address {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", n.socket)
	}
	if n.identity == nil {
		return nil, fmt.Errorf("member %s cannot be reached: this member has no certificate", address)
	}
	select {
	case n.turns <- struct{}{}:
		defer func() { <-n.turns }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	config := n.identity.current().Clone()
	config.ServerName = host
	// A machine that is off does not answer at all; that is known sooner.
	plain, err := (&net.Dialer{Control: setDeadPeerTimeout, Timeout: dialTimeout}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	secured := tls.Client(plain, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		plain.Close()
		return nil, err
	}
	return secured, nil
}

// Serve lets other members in until the context ends; it returns at once when there is nothing to serve.
func (n *Network) Serve(ctx context.Context) error {
	if n.identity == nil {
		return nil
	}
	config := net.ListenConfig{Control: setDeadPeerTimeout}
	listener, err := config.Listen(ctx, "tcp", n.address)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { listener.Close() })
	go func() {
		for {
			peer, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				// Out of file descriptors, most likely: more haste would not help.
				logrus.Warnf("members' listener: %v", err)
				time.Sleep(100 * time.Millisecond)
				continue
			}
			go n.admit(ctx, peer)
		}
	}()
	return nil
}

// admit checks the peer's certificate and then joins its connection to the node's.
func (n *Network) admit(ctx context.Context, peer net.Conn) {
	defer peer.Close()
	secured := tls.Server(peer, &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: n.identity.forClient})
	within, cancel := context.WithTimeout(ctx, handshakeTimeout)
	err := secured.HandshakeContext(within)
	cancel()
	if err != nil {
		peersRefused.Inc()
		logrus.Warnf("refused %s: %v", peer.RemoteAddr(), err)
		return
	}
	node, err := n.Dial(ctx, n.address)
	if err != nil {
		logrus.Warnf("own node: %v", err)
		return
	}
	join(ctx, secured, node)
}

// join copies both ways until either side ends, then closes both: dqlite never closes one direction alone.
func join(ctx context.Context, a, b net.Conn) {
	var once sync.Once
	end := func() { once.Do(func() { a.Close(); b.Close() }) }
	defer context.AfterFunc(ctx, end)()
	defer end()
	go func() {
		defer end()
		io.Copy(a, b)
	}()
	io.Copy(b, a)
}

func setDeadPeerTimeout(_, _ string, raw syscall.RawConn) error {
	var failure error
	err := raw.Control(func(fd uintptr) {
		milliseconds := int(deadPeerTimeout / time.Millisecond)
		failure = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, milliseconds)
	})
	return errors.Join(err, failure)
}
