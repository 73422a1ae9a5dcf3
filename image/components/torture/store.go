// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Target is how to reach the store.
type Target struct {
	endpoint      string
	cert, key, ca string
	prefix        string
	timeout       time.Duration
}

func targetFlags(flags *flag.FlagSet) *Target {
	t := &Target{}
	flags.StringVar(&t.endpoint, "endpoint", "", "unix:///path or http(s)://host:port")
	flags.StringVar(&t.cert, "cert", "", "client certificate, PEM")
	flags.StringVar(&t.key, "key", "", "its key, PEM")
	flags.StringVar(&t.ca, "cacert", "", "authority of the server's certificate, PEM")
	flags.StringVar(&t.prefix, "prefix", "/registry/torture/", "folder of all keys; of each journal another one")
	flags.DurationVar(&t.timeout, "request-timeout", 15*time.Second, "limit of one request")
	return t
}

// connect does not wait for the server: it may be down at the moment, that is the point.
func (t *Target) connect() (*clientv3.Client, error) {
	config := clientv3.Config{
		Endpoints: []string{t.endpoint}, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
		// gRPC's own pauses between attempts grow to minutes: then they, not the server, decide how long a gap is.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: 250 * time.Millisecond},
			MinConnectTimeout: 2 * time.Second,
		})},
	}
	if t.endpoint == "" {
		return nil, fmt.Errorf("--endpoint is missing")
	}
	if t.ca != "" {
		authority, err := os.ReadFile(t.ca)
		if err != nil {
			return nil, err
		}
		pair, err := tls.LoadX509KeyPair(t.cert, t.key)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(authority)
		config.TLS = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}
	}
	return clientv3.New(config)
}

func (t *Target) store(client *clientv3.Client) *store { return &store{client, t.timeout, t.prefix} }

// store makes the requests of kube-apiserver.
type store struct {
	client  *clientv3.Client
	timeout time.Duration
	prefix  string
}

// state is a key as read: revision 0 when it does not exist.
type state struct {
	revision int64
	value    string
}

// apply makes one conditional write: previous 0 creates, an empty value deletes. It returns the new revision, 0 when
// the condition did not hold, and an error when the outcome is not known.
func (s *store) apply(ctx context.Context, key string, previous int64, value string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	condition := clientv3.Compare(clientv3.ModRevision(key), "=", previous)
	transaction := s.client.Txn(ctx).If(condition)
	switch {
	case value == "":
		transaction = transaction.Then(clientv3.OpDelete(key)).Else(clientv3.OpGet(key))
	case previous == 0:
		transaction = transaction.Then(clientv3.OpPut(key, value))
	default:
		transaction = transaction.Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key))
	}
	answer, err := transaction.Commit()
	if err != nil {
		return 0, err
	}
	if !answer.Succeeded {
		return 0, nil
	}
	return answer.Header.Revision, nil
}

func (s *store) read(ctx context.Context, key string) (state, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	answer, err := s.client.Get(ctx, key)
	if err != nil || len(answer.Kvs) == 0 {
		return state{}, err
	}
	return state{revision: answer.Kvs[0].ModRevision, value: string(answer.Kvs[0].Value)}, nil
}
