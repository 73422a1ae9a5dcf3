// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/canonical/go-dqlite/v2/client"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"
)

const (
	statusTimeout  = 3 * time.Second
	membersTimeout = 8 * time.Second  // a member on a busy machine is given time for its handshake
	removeTimeout  = 40 * time.Second // a member that takes over may have to catch up first
)

// MemberStatus is one member in the status.
type MemberStatus struct {
	ID      uint64 `json:"id"`
	Address string `json:"address"`
	Role    string `json:"role"`
	Leader  bool   `json:"leader"`
}

// MemberAnswer is one member in what `k8s-dqlite members` prints.
type MemberAnswer struct {
	MemberStatus
	Answers bool `json:"answers"`
}

// Status is what `k8s-dqlite status` prints.
type Status struct {
	Address  string         `json:"address"`  // of this member
	Leader   string         `json:"leader"`   // address, empty when this member knows of none
	Healthy  bool           `json:"healthy"`  // a leader exists and answers
	Members  []MemberStatus `json:"members"`  // empty when no leader answers
	Size     int64          `json:"size"`     // bytes of the database
	Revision int64          `json:"revision"` // newest
	Error    string         `json:"error,omitempty"`
}

// controller answers on the control socket, which is for root and the service's own user only.
type controller struct {
	member *Member
	store  *backend
}

func serveControl(s Settings, m *Member, store *backend, registry *prometheus.Registry) (*http.Server, error) {
	listener, err := listenUnix(s.Control, 0o600)
	if err != nil {
		return nil, err
	}
	c := controller{member: m, store: store}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", c.status)
	mux.HandleFunc("GET /members", c.members)
	mux.HandleFunc("POST /remove", c.remove)
	mux.HandleFunc("GET /dump", c.dump)
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	service := &http.Server{Handler: mux, ReadHeaderTimeout: statusTimeout}
	go func() {
		if err := service.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			logrus.Errorf("control socket: %v", err)
		}
	}()
	return service, nil
}

func (c controller) status(response http.ResponseWriter, request *http.Request) {
	ctx, cancel := context.WithTimeout(request.Context(), statusTimeout)
	defer cancel()
	status := Status{Address: c.member.network.address, Members: []MemberStatus{}}
	if err := c.fill(ctx, &status); err != nil {
		status.Error = err.Error()
	}
	status.Healthy = status.Error == ""
	writeJSON(response, status)
}

// writeJSON answers with a value as people can read it, too.
func writeJSON(response http.ResponseWriter, value any) {
	response.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(response)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		logrus.Debugf("control socket: %v", err)
	}
}

func (c controller) fill(ctx context.Context, status *Status) error {
	leader, err := c.member.Leader(ctx)
	if err != nil {
		return err
	}
	status.Leader = leader.Address
	members, err := c.member.Members(ctx)
	if err != nil {
		return err
	}
	for _, each := range members {
		status.Members = append(status.Members, memberStatus(each, leader))
	}
	if status.Size, err = c.store.DbSize(ctx); err != nil {
		return err
	}
	status.Revision, err = c.store.CurrentRevision(ctx)
	return err
}

func memberStatus(member client.NodeInfo, leader *client.NodeInfo) MemberStatus {
	return MemberStatus{
		ID: member.ID, Address: member.Address, Role: roleName(member.Role), Leader: member.Address == leader.Address,
	}
}

func roleName(role client.NodeRole) string {
	switch role {
	case client.Voter:
		return "voter"
	case client.StandBy:
		return "stand-by"
	case client.Spare:
		return "spare"
	}
	return "unknown"
}

// members tells who of the members answers. It is a question of its own: each other member costs a handshake.
func (c controller) members(response http.ResponseWriter, request *http.Request) {
	ctx, cancel := context.WithTimeout(request.Context(), membersTimeout)
	defer cancel()
	leader, err := c.member.Leader(ctx)
	if err != nil {
		http.Error(response, err.Error(), http.StatusInternalServerError)
		return
	}
	members, err := c.member.Members(ctx)
	if err != nil {
		http.Error(response, err.Error(), http.StatusInternalServerError)
		return
	}
	answering := c.member.Answering(ctx, members)
	answers := []MemberAnswer{}
	for _, each := range members {
		answers = append(answers, MemberAnswer{memberStatus(each, leader), answering[each.Address]})
	}
	writeJSON(response, answers)
}

func (c controller) remove(response http.ResponseWriter, request *http.Request) {
	address := request.URL.Query().Get("address")
	ctx, cancel := context.WithTimeout(request.Context(), removeTimeout)
	defer cancel()
	if err := c.member.Remove(ctx, address); err != nil {
		logrus.Errorf("%s is not removed: %v", address, err)
		http.Error(response, err.Error(), http.StatusInternalServerError)
		return
	}
	logrus.Infof("%s is no member any more", address)
}

func (c controller) dump(response http.ResponseWriter, request *http.Request) {
	files, err := c.member.Dump(request.Context())
	if err == nil {
		var image []byte
		if image, err = SingleFile(files); err == nil {
			response.Header().Set("Content-Type", "application/vnd.sqlite3")
			_, err = response.Write(image)
		}
	}
	if err != nil {
		logrus.Errorf("dump: %v", err)
		http.Error(response, err.Error(), http.StatusInternalServerError)
	}
}
