// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"testing"
	"time"
)

// replaceBy copies files of a certificate made later over those in use, as a renewal does.
func replaceBy(t *testing.T, paths ...string) {
	t.Helper()
	for from, to := 0, 1; to < len(paths); from, to = from+2, to+2 {
		content, err := os.ReadFile(paths[from])
		if err == nil {
			err = os.WriteFile(paths[to], content, 0o600)
		}
		if err == nil {
			err = os.Chtimes(paths[to], time.Time{}, time.Now().Add(time.Minute))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestARenewedCertificateIsUsedWithoutARestart(t *testing.T) {
	signer := newAuthority(t)
	used, later := signer.settings(t, "127.0.0.1:9411"), signer.settings(t, "127.0.0.1:9411")
	elsewhere := signer.settings(t, "127.0.0.2:9411")
	own, err := newIdentity(used)
	if err != nil {
		t.Fatal(err)
	}
	in := func() []byte { return own.current().Certificates[0].Certificate[0] }
	first := in()
	if own.current() != own.current() {
		t.Error("files that did not change were read again")
	}
	replaceBy(t, later.Cert, used.Cert)
	if !bytes.Equal(in(), first) {
		t.Error("a certificate without its key came into use")
	}
	replaceBy(t, elsewhere.Cert, used.Cert, elsewhere.Key, used.Key)
	if !bytes.Equal(in(), first) {
		t.Error("a certificate for another address came into use")
	}
	replaceBy(t, later.Cert, used.Cert, later.Key, used.Key)
	if bytes.Equal(in(), first) {
		t.Error("the renewed certificate did not come into use")
	}
	if err := os.Remove(used.Key); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(in(), first) {
		t.Error("files that are gone brought the first certificate back")
	}
}

func TestMembersTalkOnWithRenewedCertificates(t *testing.T) {
	signer := newAuthority(t)
	here, there := signer.settings(t, "127.0.0.1:9412"), signer.settings(t, "127.0.0.2:9412")
	var networks [2]*Network
	for number, settings := range []Settings{here, there} {
		network, err := NewNetwork(settings)
		if err != nil {
			t.Fatal(err)
		}
		networks[number] = network
	}
	if err := networks[1].Serve(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Whoever is let in sees the connection end, since no node runs behind it; who is not is told so.
	dial := func() error {
		connection, err := networks[0].Dial(t.Context(), there.Address)
		if err != nil {
			return err
		}
		defer connection.Close()
		if _, err = connection.Read(make([]byte, 1)); err == io.EOF {
			return nil
		}
		return fmt.Errorf("not let in: %w", err)
	}
	if err := dial(); err != nil {
		t.Fatal(err)
	}
	// Both trust another authority from now on, and only one of them has a certificate of it.
	other := newAuthority(t)
	nextHere, nextThere := other.settings(t, here.Address), other.settings(t, there.Address)
	replaceBy(t, nextThere.Cert, there.Cert, nextThere.Key, there.Key, nextThere.CA, here.CA)
	if err := dial(); err == nil {
		t.Error("a certificate of the authority of before was let in")
	}
	replaceBy(t, nextHere.Cert, here.Cert, nextHere.Key, here.Key)
	if err := dial(); err != nil {
		t.Errorf("both with new certificates: %v", err)
	}
}
