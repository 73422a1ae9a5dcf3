// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// segments records what is sent by one call each.
type segments struct {
	net.Conn
	sent [][]byte
}

func (s *segments) Write(buffer []byte) (int, error) {
	s.sent = append(s.sent, bytes.Clone(buffer))
	return s.Conn.Write(buffer)
}

func pipe(t *testing.T) (*link, *segments, net.Conn) {
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	recorded := &segments{Conn: near}
	return newLink(recorded, "here", time.Second, NewLinks(nil)), recorded, far
}

func TestLinkSendsHeaderAndBodyAtOnce(t *testing.T) {
	for name, parts := range map[string][]string{
		"message":              {"header..", "a body"},
		"body like a header":   {"header..", "bodybody"},
		"no body":              {"header..", ""},
		"handshake, then more": {"version.", "header..", "a longer body"},
	} {
		t.Run(name, func(t *testing.T) {
			near, recorded, far := pipe(t)
			whole := ""
			for _, part := range parts {
				whole += part
			}
			received := make(chan string)
			go func() {
				buffer := make([]byte, len(whole))
				io.ReadFull(far, buffer)
				far.Write([]byte("answer"))
				received <- string(buffer)
			}()
			for _, part := range parts {
				if n, err := near.Write([]byte(part)); n != len(part) || err != nil {
					t.Fatal(n, err)
				}
			}
			// Whatever was kept back has to go before the answer is waited for.
			answer := make([]byte, 6)
			if _, err := io.ReadFull(near, answer); err != nil || string(answer) != "answer" {
				t.Fatalf("%q, %v", answer, err)
			}
			if got := <-received; got != whole {
				t.Errorf("%q arrived as %q", whole, got)
			}
			if len(recorded.sent) >= len(parts) {
				t.Errorf("%d calls for %d parts", len(recorded.sent), len(parts))
			}
		})
	}
}

func TestLinkLimitsSilence(t *testing.T) {
	near, _, _ := pipe(t)
	near.limit = 10 * time.Millisecond
	if _, err := near.Read(make([]byte, 8)); err == nil {
		t.Error("waited for ever, or read something from nobody")
	}
}
