// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"time"
)

// Settings is what the command line says, checked.
type Settings struct {
	StorageDir string        // everything that must survive lies here
	Listen     string        // path of the unix socket that speaks the etcd API
	Control    string        // path of the unix socket for status, dump and metrics
	Address    string        // this member's own address as the other members dial it, ip:port
	Cluster    []string      // addresses of members to join; empty: start a cluster of one
	Cert       string        // PEM files of this member's certificate,
	Key        string        // its key,
	CA         string        // and the authority every member's certificate comes from
	Zone       string        // what may fail together with this member; voters are spread over zones
	Latency    time.Duration // one-way network latency raft reckons with: its timeouts are multiples of it
	Compact    time.Duration // between two removals of old revisions
	Tracing    bool          // log every statement and every etcd request (never their values)
}

const (
	defaultListen  = "unix:///run/k8s-dqlite/kine.sock"
	defaultControl = "unix:///run/k8s-dqlite/control.sock"
)

// Secured says whether members speak TLS to each other. Without it nothing listens on the network at all.
func (s Settings) Secured() bool { return s.CA != "" }

// ParseSettings reads the flags of `k8s-dqlite` itself; flag.ErrHelp means that help was asked for and printed.
func ParseSettings(arguments []string, output io.Writer) (Settings, error) {
	var s Settings
	var cluster, tls string
	flags := flag.NewFlagSet("k8s-dqlite", flag.ContinueOnError)
	flags.SetOutput(output)
	flags.StringVar(&s.StorageDir, "storage-dir", "/var/lib/k8s-dqlite", "folder of the data")
	flags.StringVar(&s.Listen, "listen", defaultListen, "unix socket that serves the etcd API")
	flags.StringVar(&s.Control, "control", defaultControl, "unix socket for status, dump and metrics")
	flags.StringVar(&s.Address, "address", "127.0.0.1:9000", "own address among the members, ip:port")
	flags.StringVar(&cluster, "cluster", "", "addresses of members to join, separated by commas")
	flags.StringVar(&tls, "tls", "", "required or off; off only with a loopback address and without a cluster")
	flags.StringVar(&s.Cert, "tls-cert", "", "certificate of this member, PEM, with its address as IP SAN")
	flags.StringVar(&s.Key, "tls-key", "", "key of the certificate, PEM")
	flags.StringVar(&s.CA, "tls-ca", "", "authority of all members' certificates, PEM")
	flags.StringVar(&s.Zone, "failure-domain", "", "name of what may fail together with this member, e.g. a rack")
	flags.DurationVar(&s.Latency, "network-latency", 50*time.Millisecond, "one-way latency between members")
	flags.DurationVar(&s.Compact, "compact-interval", 5*time.Minute, "time between two removals of old revisions")
	flags.BoolVar(&s.Tracing, "tracing", false, "log every statement")
	if err := flags.Parse(arguments); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("%q: unknown command or argument", flags.Arg(0))
	}
	if cluster != "" {
		s.Cluster = strings.Split(cluster, ",")
	}
	return s.checked(tls)
}

func (s Settings) checked(tls string) (Settings, error) {
	var err error
	if s.Listen, err = socketPath(s.Listen); err != nil {
		return s, fmt.Errorf("--listen: %w", err)
	}
	if s.Control, err = socketPath(s.Control); err != nil {
		return s, fmt.Errorf("--control: %w", err)
	}
	if !filepath.IsAbs(s.StorageDir) {
		return s, fmt.Errorf("--storage-dir: %q is not an absolute path", s.StorageDir)
	}
	loopback, err := checkAddress(s.Address)
	if err != nil {
		return s, fmt.Errorf("--address: %w", err)
	}
	for _, member := range s.Cluster {
		if _, err := checkAddress(member); err != nil {
			return s, fmt.Errorf("--cluster: %w", err)
		}
	}
	if s.Latency < time.Millisecond || s.Latency > 10*time.Second {
		return s, fmt.Errorf("--network-latency: %s is not between 1ms and 10s", s.Latency)
	}
	if s.Compact < time.Second {
		return s, fmt.Errorf("--compact-interval: %s is less than 1s", s.Compact)
	}
	return s, s.checkTLS(tls, loopback)
}

// checkTLS refuses every combination in which members would talk, or could be talked to, without certificates.
func (s Settings) checkTLS(mode string, loopback bool) error {
	files := 0
	for _, file := range []string{s.Cert, s.Key, s.CA} {
		if file != "" {
			files++
		}
	}
	switch {
	case mode != "" && mode != "required" && mode != "off":
		return fmt.Errorf("--tls: %q is neither required nor off", mode)
	case files != 0 && files != 3:
		return errors.New("--tls-cert, --tls-key and --tls-ca go together")
	case mode == "off" && files == 3:
		return errors.New("--tls=off contradicts the certificate files")
	case files == 3:
		return nil
	case mode == "required":
		return errors.New("--tls=required needs --tls-cert, --tls-key and --tls-ca")
	case !loopback:
		return fmt.Errorf("--address: %s is no loopback address, so certificates are needed (--tls-cert …)", s.Address)
	case len(s.Cluster) > 0:
		return errors.New("--cluster needs certificates (--tls-cert, --tls-key, --tls-ca)")
	}
	return nil
}

// checkAddress accepts ip:port with a fixed port; names are refused because certificates and raft both know IPs only.
func checkAddress(address string) (loopback bool, err error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false, err
	}
	ip := net.ParseIP(host)
	if ip == nil || ip.IsUnspecified() {
		return false, fmt.Errorf("%q is not the IP address of one machine", host)
	}
	if number, err := net.LookupPort("tcp", port); err != nil || number == 0 {
		return false, fmt.Errorf("%q is not a port", port)
	}
	return ip.IsLoopback(), nil
}

func socketPath(url string) (string, error) {
	path, found := strings.CutPrefix(url, "unix://")
	if !found || !filepath.IsAbs(path) {
		return "", fmt.Errorf("%q is not of the form unix:///path", url)
	}
	return path, nil
}
