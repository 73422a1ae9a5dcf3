// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"net"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// A leader that is frozen, or cut off, keeps its connections open and says nothing. The first answer to any
	// statement comes well within this.
	remoteAnswer = 4 * time.Second
	// The own node is frozen only together with this program, so silence there means a slow disk: be patient.
	localAnswer = 30 * time.Second
)

// Links are the open database connections of this process by the member they lead to.
type Links struct {
	network *Network
	mutex   sync.Mutex
	open    map[*link]struct{}
	dialing map[*dial]struct{}
}

// dial is a connection that is being opened.
type dial struct {
	address string
	cancel  context.CancelFunc
}

// NewLinks returns an empty set.
func NewLinks(network *Network) *Links {
	return &Links{network: network, open: map[*link]struct{}{}, dialing: map[*dial]struct{}{}}
}

// Dial opens a database connection on which no single read or write takes longer than a limit. go-dqlite itself
// reads the later parts of a long answer without any.
func (l *Links) Dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := l.connect(ctx, address)
	if err != nil {
		return nil, err
	}
	limit := remoteAnswer
	if address == l.network.address {
		limit = localAnswer
	}
	opened := newLink(conn, address, limit, l)
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.open[opened] = struct{}{}
	return opened, nil
}

// connect dials so that CloseAllBut can end it: a member that is frozen is reached, and then says nothing.
func (l *Links) connect(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	begun := &dial{address, cancel}
	l.mutex.Lock()
	l.dialing[begun] = struct{}{}
	l.mutex.Unlock()
	defer func() {
		cancel()
		l.mutex.Lock()
		delete(l.dialing, begun)
		l.mutex.Unlock()
	}()
	return l.network.Dial(ctx, address)
}

// CloseAllBut ends the connections to every other member: once the leader has changed, whatever waits there waits in
// vain, and it is better to know now than at the limit.
func (l *Links) CloseAllBut(leader string) {
	l.mutex.Lock()
	var old []*link
	for each := range l.open {
		if each.address != leader {
			old = append(old, each)
		}
	}
	for each := range l.dialing {
		if each.address != leader {
			each.cancel()
		}
	}
	l.mutex.Unlock()
	for _, each := range old {
		each.Close()
	}
	if len(old) > 0 {
		logrus.Infof("the leader is now %s: closed %d connections to others", leader, len(old))
	}
}

// link is a database connection. Besides its limits it saves system calls and wake-ups of the dqlite node: go-dqlite
// writes and reads the eight bytes of each message's header by themselves.
type link struct {
	net.Conn
	address string
	limit   time.Duration
	links   *Links
	reader  *bufio.Reader
	unsent  []byte // written, but not sent before what follows or before the answer is waited for
	mutex   sync.Mutex
	asked   time.Time // the deadline go-dqlite set, zero for none
}

const (
	headerSize = 8
	bufferSize = 4096 // of what is read ahead, and kept for the next message to be sent
)

func newLink(conn net.Conn, address string, limit time.Duration, links *Links) *link {
	reader := bufio.NewReaderSize(conn, bufferSize)
	return &link{Conn: conn, address: address, limit: limit, links: links, reader: reader}
}

func (c *link) SetDeadline(deadline time.Time) error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.asked = deadline
	return nil
}

func (c *link) deadline() time.Time {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	limit := time.Now().Add(c.limit)
	if c.asked.IsZero() || limit.Before(c.asked) {
		return limit
	}
	return c.asked
}

// Read returns at once what an earlier read brought along.
func (c *link) Read(buffer []byte) (int, error) {
	if c.reader.Buffered() == 0 {
		if err := c.flush(); err != nil {
			return 0, err
		}
		if err := c.Conn.SetReadDeadline(c.deadline()); err != nil {
			return 0, err
		}
	}
	return c.reader.Read(buffer)
}

// Write keeps back what may be a header. go-dqlite uses a connection from one goroutine at a time.
func (c *link) Write(buffer []byte) (int, error) {
	if len(c.unsent) == 0 && len(buffer) == headerSize {
		c.unsent = append(c.unsent, buffer...)
		return len(buffer), nil
	}
	c.unsent = append(c.unsent, buffer...)
	return len(buffer), c.flush()
}

func (c *link) flush() error {
	if len(c.unsent) == 0 {
		return nil
	}
	if err := c.Conn.SetWriteDeadline(c.deadline()); err != nil {
		return err
	}
	_, err := c.Conn.Write(c.unsent)
	c.unsent = c.unsent[:0]
	if cap(c.unsent) > bufferSize {
		c.unsent = nil
	}
	return err
}

func (c *link) Close() error {
	c.links.mutex.Lock()
	delete(c.links.open, c)
	c.links.mutex.Unlock()
	return c.Conn.Close()
}
