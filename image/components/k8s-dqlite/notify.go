// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
)

// notify tells systemd a state (sd_notify(3)); outside of a unit it does nothing.
func notify(state string) {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return
	}
	conn, err := net.Dial("unixgram", name)
	if err != nil {
		logrus.Warnf("cannot notify the service manager: %v", err)
		return
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		logrus.Warnf("cannot notify the service manager: %v", err)
	}
}

// watchdogInterval is half the time systemd allows between signs of life, or 0 when it wants none (WatchdogSec=).
func watchdogInterval() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	microseconds, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || microseconds <= 0 {
		return 0
	}
	return time.Duration(microseconds) * time.Microsecond / 2
}

// watchdog gives a sign of life for as long as alive says so. What is asked is whether the own dqlite node answers,
// not whether the cluster has a leader: restarting a healthy member does not bring back a quorum.
func watchdog(ctx context.Context, alive func(context.Context) error) {
	interval := watchdogInterval()
	if interval == 0 {
		return
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		within, cancel := context.WithTimeout(ctx, interval)
		err := alive(within)
		cancel()
		if err == nil {
			notify("WATCHDOG=1")
		} else if ctx.Err() == nil {
			logrus.Errorf("the dqlite node does not answer: %v", err)
		}
	}
}
