// SPDX-License-Identifier: Apache-2.0

package main

import (
	kine "github.com/k3s-io/kine/pkg/metrics"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// All that is counted, served on the control socket.
var (
	writesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "k8s_dqlite_writes_total",
		Help: "Writes by result: made, conflict (the condition did not hold) or failed (error told to the client).",
	}, []string{"result"})
	busyRetries = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "k8s_dqlite_busy_retries_total",
		Help: "Statements repeated because another transaction was writing.",
	})
	answersLost = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "k8s_dqlite_answers_lost_total",
		Help: "Statements repeated because it is not known whether they were executed.",
	})
	answersFound = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "k8s_dqlite_answers_reconciled_total",
		Help: "Writes found to have been made by an attempt whose answer was lost.",
	})
	writeSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "k8s_dqlite_commit_seconds",
		Help:    "Time of one statement of the writer, committed on the disks of a majority.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
	})
	writesPerBatch = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "k8s_dqlite_writes_per_statement",
		Help:    "Writes that shared one statement.",
		Buckets: []float64{1, 2, 4, 8, 16, 32, batchWrites},
	})
	compactedTo = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "k8s_dqlite_compacted_revision",
		Help: "Revision up to which this member has compacted since it started.",
	})
	peersRefused = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "k8s_dqlite_peers_refused_total",
		Help: "Connections of would-be members refused for their certificate.",
	})
)

func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		writesTotal, busyRetries, answersLost, answersFound, writeSeconds, writesPerBatch, compactedTo, peersRefused,
		kine.SQLTotal, kine.SQLTime, kine.CompactTotal, kine.InsertErrorsTotal,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return registry
}
