// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/sirupsen/logrus"
)

// journalFormat writes one line per message with the priority as systemd's journal takes it (sd-daemon(3)).
type journalFormat struct{ prefix bool }

// kine prints a failed request in full, and with it the objects in it: Secrets among them. The client is told the
// error anyway, and what went wrong here is logged by this program.
var requestsInLog = []string{"error in txn ", "error in put "}

// A read that failed is told to the client, which repeats it; during an election or at the end that is in order.
const readInLog = "error while range on "

func (f journalFormat) Format(entry *logrus.Entry) ([]byte, error) {
	for _, start := range requestsInLog {
		if strings.HasPrefix(entry.Message, start) {
			return nil, nil
		}
	}
	level, message := entry.Level, strings.ReplaceAll(entry.Message, "\n", " ")
	if strings.HasPrefix(message, readInLog) {
		level = logrus.InfoLevel
	}
	if !f.prefix {
		return fmt.Appendf(nil, "%s: %s\n", level, message), nil
	}
	return fmt.Appendf(nil, "<%d>%s\n", priority(level), message), nil
}

func priority(level logrus.Level) int {
	switch level {
	case logrus.PanicLevel, logrus.FatalLevel:
		return 2
	case logrus.ErrorLevel:
		return 3
	case logrus.WarnLevel:
		return 4
	case logrus.InfoLevel:
		return 6
	}
	return 7
}

func configureLog(tracing bool) {
	logrus.SetOutput(os.Stderr)
	logrus.SetFormatter(journalFormat{prefix: os.Getenv("JOURNAL_STREAM") != ""})
	if tracing {
		logrus.SetLevel(logrus.TraceLevel)
	}
}
