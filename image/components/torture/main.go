// SPDX-License-Identifier: Apache-2.0

// etcd-torture writes to an etcd API from several sides at once, keeps a durable journal of what it was told, and later
// proves from the journal that the store kept its word.
//
//	etcd-torture write  --endpoint unix:///… --journal FILE [--writers 8] [--duration 20s] [--append]
//	etcd-torture verify --endpoint unix:///… --journal FILE
//	etcd-torture bench  --endpoint unix:///… [--writers 8] [--writes 2000]
//
// It uses only the transactions kube-apiserver uses, which is all that kine understands. Between `write` and `verify`
// anything may be done to the store. Results are JSON on standard output; verify exits with 1 when a promise was broken.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// errBroken is returned when the store broke a promise; the details have been printed.
var errBroken = errors.New("acknowledged writes are not as they were acknowledged")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "etcd-torture: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) error {
	commands := map[string]func(context.Context, []string) (any, error){
		"write": writeCommand, "verify": verifyCommand, "bench": benchCommand,
	}
	if len(arguments) == 0 || commands[arguments[0]] == nil {
		return errors.New("usage: etcd-torture write|verify|bench [flags]")
	}
	result, err := commands[arguments[0]](ctx, arguments[1:])
	if result != nil {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		err = errors.Join(err, encoder.Encode(result))
	}
	return err
}
