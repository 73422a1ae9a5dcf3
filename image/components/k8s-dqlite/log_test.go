// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/sirupsen/logrus"
)

func TestJournalFormat(t *testing.T) {
	cases := []struct {
		level   logrus.Level
		message string
		want    string
	}{
		{logrus.InfoLevel, "serving", "<6>serving\n"},
		{logrus.WarnLevel, "two\nlines", "<4>two lines\n"},
		{logrus.FatalLevel, "end", "<2>end\n"},
		{logrus.ErrorLevel, "error while range on /registry/a : no leader", "<6>error while range on /registry/a : no leader\n"},
		// With the request goes the Secret in it.
		{logrus.ErrorLevel, "error in txn compare:<key:\"/registry/secrets/a\"> success:<value:\"hush\">: timed out", ""},
		{logrus.ErrorLevel, "error in put key:\"a\" value:\"hush\": timed out", ""},
	}
	for _, test := range cases {
		got, err := journalFormat{prefix: true}.Format(&logrus.Entry{Level: test.level, Message: test.message})
		if err != nil || string(got) != test.want {
			t.Errorf("%q gave %q, %v", test.message, got, err)
		}
	}
}
