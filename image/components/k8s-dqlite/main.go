// SPDX-License-Identifier: Apache-2.0

// k8s-dqlite keeps a Kubernetes cluster's state: the etcd API of kine, on SQL replicated by dqlite.
//
//	k8s-dqlite [flags]             the daemon
//	k8s-dqlite status              members, leader, size, as JSON
//	k8s-dqlite members             who of the members answers, as JSON
//	k8s-dqlite remove ADDRESS      takes a member out, whether it runs or not
//	k8s-dqlite dump FILE           a consistent backup, one SQLite file
//	k8s-dqlite metrics             counters, in Prometheus' format
//	k8s-dqlite restore FILE        a new folder with the content of a backup; needs no daemon
//	k8s-dqlite salvage FILE        a backup of all that a lost cluster's member has; needs no daemon
//
// How it keeps every acknowledged write is told in docs/datastore.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// offline are the commands that work on folders and need no daemon.
var offline = map[string]func(context.Context, []string) error{"restore": restoreTo, "salvage": salvageTo}

func main() {
	err := start(os.Args[1:])
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	default:
		fmt.Fprintf(os.Stderr, "k8s-dqlite: %v\n", err)
		os.Exit(1)
	}
}

func start(arguments []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if len(arguments) > 0 {
		if work, ok := offline[arguments[0]]; ok {
			return work(ctx, arguments[1:])
		}
		if ask, ok := questions[arguments[0]]; ok {
			return ask(ctx, arguments[1:])
		}
	}
	settings, err := ParseSettings(arguments, os.Stderr)
	if err != nil {
		return err
	}
	configureLog(settings.Tracing)
	beThrifty()
	return Run(ctx, settings)
}
