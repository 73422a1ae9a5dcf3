// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
)

// questions are the commands asked of a running daemon over its control socket.
var questions = map[string]func(context.Context, []string) error{
	"status": func(ctx context.Context, arguments []string) error {
		return toOutput(ctx, "status", arguments)
	},
	"metrics": func(ctx context.Context, arguments []string) error {
		return toOutput(ctx, "metrics", arguments)
	},
	"members": func(ctx context.Context, arguments []string) error {
		return toOutput(ctx, "members", arguments)
	},
	"dump":   dumpTo,
	"remove": removeMember,
}

// parseQuestion reads the flags of a question; count is the number of arguments it wants.
func parseQuestion(name string, arguments []string, count int) (socket string, rest []string, err error) {
	flags := flag.NewFlagSet("k8s-dqlite "+name, flag.ContinueOnError)
	control := flags.String("control", defaultControl, "control socket of the daemon")
	if err := flags.Parse(arguments); err != nil {
		return "", nil, err
	}
	if flags.NArg() != count {
		return "", nil, fmt.Errorf("%s: %d arguments wanted, %d given", name, count, flags.NArg())
	}
	socket, err = socketPath(*control)
	return socket, flags.Args(), err
}

// ask sends one question; the caller closes the answer.
func ask(ctx context.Context, socket, method, question string) (io.ReadCloser, error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", socket)
	}}
	request, err := http.NewRequestWithContext(ctx, method, "http://k8s-dqlite/"+question, nil)
	if err != nil {
		return nil, err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		return nil, fmt.Errorf("%s: %s", response.Status, text)
	}
	return response.Body, nil
}

func toOutput(ctx context.Context, question string, arguments []string) error {
	socket, _, err := parseQuestion(question, arguments, 0)
	if err != nil {
		return err
	}
	answer, err := ask(ctx, socket, http.MethodGet, question)
	if err != nil {
		return err
	}
	defer answer.Close()
	_, err = io.Copy(os.Stdout, answer)
	return err
}

func removeMember(ctx context.Context, arguments []string) error {
	socket, rest, err := parseQuestion("remove", arguments, 1)
	if err != nil {
		return err
	}
	answer, err := ask(ctx, socket, http.MethodPost, "remove?address="+url.QueryEscape(rest[0]))
	if err != nil {
		return err
	}
	return answer.Close()
}

// dumpTo writes a backup under another name first: a file of the wanted name is always a whole one, and durable.
func dumpTo(ctx context.Context, arguments []string) error {
	socket, rest, err := parseQuestion("dump", arguments, 1)
	if err != nil {
		return err
	}
	answer, err := ask(ctx, socket, http.MethodGet, "dump")
	if err != nil {
		return err
	}
	defer answer.Close()
	target := rest[0]
	file, err := os.CreateTemp(filepath.Dir(target), ".dump-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = io.Copy(file, answer)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), target)
}
