// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// Sessions that can be taken up again without signing anything, which is most of what a handshake costs.
const rememberedSessions = 16

// identity is this member's certificate, key and authority as they are in their files now: they are renewed while the
// member runs, and leaving and coming back for that would cost the cluster an election.
type identity struct {
	files   [3]string // certificate, key, authority
	address string

	mutex  sync.Mutex
	stamps [3]time.Time
	config *tls.Config
}

// newIdentity reads the files; what is wrong with them at the start is an error.
func newIdentity(s Settings) (*identity, error) {
	i := &identity{files: [3]string{s.Cert, s.Key, s.CA}, address: s.Address}
	stamps, err := i.look()
	if err != nil {
		return nil, err
	}
	i.stamps = stamps
	i.config, err = i.read()
	return i, err
}

// current returns how to speak TLS with others. Files that cannot be used, half of a pair for instance, are tried again
// at the next connection; until then the old ones count.
func (i *identity) current() *tls.Config {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	stamps, err := i.look()
	if err == nil && stamps == i.stamps {
		return i.config
	}
	var config *tls.Config
	if err == nil {
		config, err = i.read()
	}
	if err != nil {
		logrus.Warnf("the old certificate stays in use: %v", err)
		return i.config
	}
	logrus.Infof("using the certificate of %s", stamps[0].Format(time.RFC3339))
	i.config, i.stamps = config, stamps
	return config
}

// forClient lets a server look at the files for each connection.
func (i *identity) forClient(*tls.ClientHelloInfo) (*tls.Config, error) { return i.current(), nil }

func (i *identity) look() (stamps [3]time.Time, err error) {
	for number, file := range i.files {
		info, err := os.Stat(file)
		if err != nil {
			return stamps, err
		}
		stamps[number] = info.ModTime()
	}
	return stamps, nil
}

func (i *identity) read() (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(i.files[0], i.files[1])
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	pem, err := os.ReadFile(i.files[2])
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in it", i.files[2])
	}
	if err := checkCertificate(certificate, i.address); err != nil {
		return nil, fmt.Errorf("%s: %w", i.files[0], err)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{certificate},
		RootCAs:      pool,
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,

		ClientSessionCache: tls.NewLRUClientSessionCache(rememberedSessions),
	}, nil
}

// checkCertificate finds out at start what the other members would otherwise refuse one by one.
func checkCertificate(certificate tls.Certificate, address string) error {
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	return leaf.VerifyHostname(host)
}
