// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"testing"

	dqlite "github.com/canonical/go-dqlite/v2/driver"
	"github.com/k3s-io/kine/pkg/server"
)

func TestFateOf(t *testing.T) {
	cases := []struct {
		err  error
		want fate
	}{
		{dqlite.Error{Code: dqlite.ErrBusy}, busy},
		{dqlite.Error{Code: dqlite.ErrBusySnapshot}, busy},
		{fmt.Errorf("wrapped: %w", dqlite.Error{Code: codeLocked}), busy},
		{dqlite.Error{Code: dqlite.ErrIoErrLeadershipLost}, unknown},
		{dqlite.Error{Code: 19}, refused}, // constraint
		{dqlite.Error{Code: 1}, refused},  // an error in the statement
		{dqlite.Error{Code: 13}, refused}, // full
		{driver.ErrBadConn, unknown},
		{context.DeadlineExceeded, unknown},
		{lostAfter(dqlite.Error{Code: dqlite.ErrBusy}), unknown}, // the rows are there by then
		{io.ErrUnexpectedEOF, unknown},
	}
	for _, test := range cases {
		if got := fateOf(test.err); got != test.want {
			t.Errorf("%v: %d, want %d", test.err, got, test.want)
		}
	}
}

func TestTranslateKeepsWhatKineCompares(t *testing.T) {
	for _, err := range []error{nil, server.ErrKeyExists, server.ErrCompacted, server.ErrFutureRev} {
		if got := translate(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
	if got := translate(fmt.Errorf("x: %w", context.DeadlineExceeded)); !errors.Is(got, errTimedOut) {
		t.Errorf("a timeout became %v", got)
	}
}
