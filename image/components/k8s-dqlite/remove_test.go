// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/canonical/go-dqlite/v2/client"
)

// authority signs members' certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	path        string
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	made := authority{path: filepath.Join(t.TempDir(), "ca.crt")}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "members"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	made.certificate, made.key = sign(t, template, template, nil, made.path)
	return made
}

// settings returns those of a member at an address of this machine, with a folder and a certificate of its own.
func (a authority) settings(t *testing.T, address string, cluster ...string) Settings {
	t.Helper()
	dir := t.TempDir()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.ParseIP(host)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	certificate, key := filepath.Join(dir, "member.crt"), filepath.Join(dir, "member.key")
	_, secret := sign(t, template, a.certificate, a.key, certificate)
	encoded, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, key, "PRIVATE KEY", encoded)
	return Settings{
		StorageDir: filepath.Join(dir, "data"), Address: address, Cluster: cluster,
		Cert: certificate, Key: key, CA: a.path, Latency: 20 * time.Millisecond,
	}
}

// sign makes a key and writes its certificate; without a signer it signs itself.
func sign(
	t *testing.T, template, parent *x509.Certificate, signer *ecdsa.PrivateKey, path string,
) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if signer == nil {
		signer = key
	}
	encoded, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, path, "CERTIFICATE", encoded)
	made, err := x509.ParseCertificate(encoded)
	if err != nil {
		t.Fatal(err)
	}
	return made, key
}

func writePEM(t *testing.T, path, kind string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// startMembers starts one member after the other; those that are still in the map are closed with the test.
func startMembers(t *testing.T, addresses ...string) map[string]*Member {
	t.Helper()
	return startInZones(t, nil, addresses...)
}

// startInZones does the same; zones: of those members that have one, by address.
func startInZones(t *testing.T, zones map[string]string, addresses ...string) map[string]*Member {
	t.Helper()
	signer, members := newAuthority(t), map[string]*Member{}
	t.Cleanup(func() {
		for _, member := range members {
			closeBounded(member)
		}
	})
	for number, address := range addresses {
		settings := signer.settings(t, address, addresses[:min(number, 1)]...)
		settings.Zone = zones[address]
		if err := os.Mkdir(settings.StorageDir, 0o700); err != nil {
			t.Fatal(err)
		}
		member, err := StartMember(t.Context(), settings)
		if err != nil {
			t.Fatal(err)
		}
		members[address] = member
	}
	return members
}

// waitFor asks until the members are as wanted, and returns the leader's address.
func waitFor(t *testing.T, member *Member, what string, wanted func(members []client.NodeInfo) bool) string {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		members, err := member.Members(t.Context())
		if err == nil && wanted(members) {
			if leader, err := member.Leader(t.Context()); err == nil && leader.Address != "" {
				return leader.Address
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s; members are %v, %v", what, members, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// remove goes on until it is done: the leader refuses while it changes somebody's role.
func remove(t *testing.T, by *Member, address string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := by.Remove(t.Context(), address)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func voters(members []client.NodeInfo) int {
	count := 0
	for _, each := range members {
		if each.Role == client.Voter {
			count++
		}
	}
	return count
}

func has(members []client.NodeInfo, address string) bool {
	for _, each := range members {
		if each.Address == address {
			return true
		}
	}
	return false
}

// otherThan returns a member that is at none of the addresses.
func otherThan(members map[string]*Member, addresses ...string) *Member {
next:
	for at, member := range members {
		for _, address := range addresses {
			if at == address {
				continue next
			}
		}
		return member
	}
	return nil
}

func TestMembersLeaveTheLeaderIncludedUntilOneIsLeft(t *testing.T) {
	members := startMembers(t, "127.0.0.11:9393", "127.0.0.12:9393", "127.0.0.13:9393")
	some := members["127.0.0.11:9393"]
	leader := waitFor(t, some, "three voters", func(found []client.NodeInfo) bool {
		return len(found) == 3 && voters(found) == 3
	})

	stays := otherThan(members, leader)
	for range 2 { // as if the answer to the first had been lost
		remove(t, stays, leader)
	}
	gone := leader
	// Of two members only the leader votes.
	leader = waitFor(t, stays, "one voter of two", func(found []client.NodeInfo) bool {
		return len(found) == 2 && !has(found, gone) && voters(found) == 1
	})

	stays = otherThan(members, gone, leader)
	remove(t, stays, leader)
	waitFor(t, stays, "the last one votes", func(found []client.NodeInfo) bool {
		return len(found) == 1 && found[0].Address == stays.network.address && voters(found) == 1
	})
	if err := stays.Remove(t.Context(), stays.network.address); err == nil {
		t.Error("the only member has left")
	}
}

func TestAMemberThatIsGoneIsFoundOutAndRemoved(t *testing.T) {
	members := startMembers(t, "127.0.0.14:9393", "127.0.0.15:9393", "127.0.0.16:9393")
	some := members["127.0.0.14:9393"]
	leader := waitFor(t, some, "three voters", func(found []client.NodeInfo) bool {
		return len(found) == 3 && voters(found) == 3
	})
	stays := members[leader]
	lost := otherThan(members, leader)
	delete(members, lost.network.address)
	if err := lost.Close(); err != nil {
		t.Fatal(err)
	}
	known, err := stays.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	answering := stays.Answering(t.Context(), known)
	if len(answering) != 2 || answering[lost.network.address] || !answering[leader] {
		t.Errorf("those that answer are %v, and %s is gone", answering, lost.network.address)
	}
	remove(t, stays, lost.network.address)
	waitFor(t, stays, "two are left", func(found []client.NodeInfo) bool {
		return len(found) == 2 && !has(found, lost.network.address)
	})
}
