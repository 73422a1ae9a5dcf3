// SPDX-License-Identifier: Apache-2.0

// A pod that tests look at and look out of: what it is called, whether names resolve in it, what it reaches.
//
//	testpod                serve HTTP on :8080, or on the address in LISTEN
//	testpod sleep 30s      do nothing for a time, then end well; without a time: until told to end
//	testpod dns NAME       resolve once
//	testpod ptr ADDRESS    find the names of an address
//	testpod fetch URL      fetch once; `fetch -cluster URL` with the pod's service account
//	testpod load URL HOST SECONDS CONNECTIONS    ask again and again, and say how quickly it was answered
//	testpod grpc ADDRESS HOST SERVICE/METHOD MESSAGE    call once
//	testpod write FILE N   have a new file of N bytes on disk, each time the same
//	testpod read FILE      count the bytes of a file, and sum them up (SHA-256)
//
// Over HTTP: /hostname, /healthz, /dns?name=NAME, /fetch?url=URL[&cluster=1]. The last two answer JSON and status 502 when
// what was asked for failed; on the command line they print the same JSON and end with code 1.
package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"
	bodyLimit      = 1 << 20
	// Longer than the resolver's own two attempts of 5 s: its error says more than a deadline does.
	askLimit = 12 * time.Second
)

// answer is what asking for something gave; Error is empty when it went well, Bytes are those that are in a file.
type answer struct {
	Addresses []string `json:"addresses,omitempty"`
	Names     []string `json:"names,omitempty"`
	Status    int      `json:"status,omitempty"`
	Body      string   `json:"body,omitempty"`
	Bytes     int64    `json:"bytes,omitempty"`
	Sum       string   `json:"sum,omitempty"`
	Error     string   `json:"error,omitempty"`
	Seconds   float64  `json:"seconds"`
}

// ask runs one question with a time limit and notes how long it took and what went wrong.
func ask(ctx context.Context, question func(context.Context, *answer) error) answer {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var result answer
	started := time.Now()
	if err := question(ctx, &result); err != nil {
		result.Error = err.Error()
	}
	result.Seconds = time.Since(started).Seconds()
	return result
}

func resolve(name string) func(context.Context, *answer) error {
	return func(ctx context.Context, result *answer) (err error) {
		result.Addresses, err = net.DefaultResolver.LookupHost(ctx, name)
		return err
	}
}

func reverse(address string) func(context.Context, *answer) error {
	return func(ctx context.Context, result *answer) (err error) {
		result.Names, err = net.DefaultResolver.LookupAddr(ctx, address)
		return err
	}
}

func fetch(url string, asServiceAccount bool) func(context.Context, *answer) error {
	return func(ctx context.Context, result *answer) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		transport := &http.Transport{DisableKeepAlives: true}
		if asServiceAccount {
			if err := identify(request, transport); err != nil {
				return err
			}
		}
		response, err := (&http.Client{Transport: transport}).Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(io.LimitReader(response.Body, bodyLimit))
		result.Status, result.Body = response.StatusCode, string(body)
		return err
	}
}

// endless is a file that nobody has written and that has no end.
type endless struct{}

func (endless) Read(buffer []byte) (int, error) {
	for index := range buffer {
		buffer[index] = byte(index)
	}
	return len(buffer), nil
}

func write(name, size string) func(context.Context, *answer) error {
	return func(_ context.Context, result *answer) error {
		count, err := strconv.ParseInt(size, 10, 64)
		if err != nil {
			return err
		}
		file, err := os.Create(name)
		if err != nil {
			return err
		}
		defer file.Close()
		if result.Bytes, err = io.CopyN(file, endless{}, count); err != nil {
			return err
		}
		return file.Sync()
	}
}

func read(name string) func(context.Context, *answer) error {
	return func(_ context.Context, result *answer) error {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		sum := sha256.New()
		result.Bytes, err = io.Copy(sum, file)
		result.Sum = hex.EncodeToString(sum.Sum(nil))
		return err
	}
}

// identify gives a request the pod's token, and its connection the cluster's certificate authority.
func identify(request *http.Request, transport *http.Transport) error {
	token, err := os.ReadFile(filepath.Join(serviceAccount, "token"))
	if err != nil {
		return err
	}
	authority, err := os.ReadFile(filepath.Join(serviceAccount, "ca.crt"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return errors.New("ca.crt of the service account holds no certificate")
	}
	transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	return nil
}

func routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hostname", func(w http.ResponseWriter, _ *http.Request) {
		name, err := os.Hostname()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, name)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /dns", func(w http.ResponseWriter, r *http.Request) {
		reply(w, ask(r.Context(), resolve(r.FormValue("name"))))
	})
	mux.HandleFunc("GET /fetch", func(w http.ResponseWriter, r *http.Request) {
		reply(w, ask(r.Context(), fetch(r.FormValue("url"), r.FormValue("cluster") != "")))
	})
	mux.HandleFunc("POST /{service}/{method}", echo)
	return mux
}

func reply(w http.ResponseWriter, result answer) {
	w.Header().Set("Content-Type", "application/json")
	if result.Error != "" {
		w.WriteHeader(http.StatusBadGateway)
	}
	json.NewEncoder(w).Encode(result)
}

// once prints an answer and returns the exit code that goes with it.
func once(result answer) int {
	json.NewEncoder(os.Stdout).Encode(result)
	if result.Error != "" {
		return 1
	}
	return 0
}

func serve(ctx context.Context) int {
	listen := os.Getenv("LISTEN")
	if listen == "" {
		listen = ":8080"
	}
	protocols := unencrypted()
	protocols.SetHTTP1(true)
	server := &http.Server{Protocols: protocols, Addr: listen, Handler: routes(), ReadHeaderTimeout: askLimit}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func sleep(ctx context.Context, duration string) int {
	limit, err := time.ParseDuration(duration)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	select {
	case <-ctx.Done():
	case <-time.After(limit):
	}
	return 0
}

func run(ctx context.Context, args []string) int {
	switch {
	case len(args) == 0:
		return serve(ctx)
	case len(args) == 1 && args[0] == "sleep":
		<-ctx.Done()
		return 0
	case len(args) == 2 && args[0] == "sleep":
		return sleep(ctx, args[1])
	case len(args) == 2 && args[0] == "dns":
		return once(ask(ctx, resolve(args[1])))
	case len(args) == 2 && args[0] == "ptr":
		return once(ask(ctx, reverse(args[1])))
	case len(args) == 2 && args[0] == "fetch":
		return once(ask(ctx, fetch(args[1], false)))
	case len(args) == 3 && args[0] == "fetch" && args[1] == "-cluster":
		return once(ask(ctx, fetch(args[2], true)))
	case len(args) == 5 && args[0] == "load":
		return load(ctx, args[1], args[2], args[3], args[4])
	case len(args) == 5 && args[0] == "grpc":
		return once(ask(ctx, call(args[1], args[2], args[3], args[4])))
	case len(args) == 3 && args[0] == "write":
		return once(ask(ctx, write(args[1], args[2])))
	case len(args) == 2 && args[0] == "read":
		return once(ask(ctx, read(args[1])))
	}
	fmt.Fprintln(os.Stderr, "usage: testpod [sleep [DURATION] | dns NAME | ptr ADDRESS | fetch [-cluster] URL | load URL HOST SECONDS CONNECTIONS | grpc ADDRESS HOST METHOD MESSAGE | write FILE BYTES | read FILE]")
	return 2
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}
