// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"strings"
	"testing"
)

func TestParseSettings(t *testing.T) {
	files := []string{"--tls-cert=/c", "--tls-key=/k", "--tls-ca=/a"}
	cases := map[string]struct {
		arguments []string
		complaint string // part of the error; empty: accepted
	}{
		"defaults":                    {nil, ""},
		"network with certificates":   {append([]string{"--address=192.0.2.1:9000"}, files...), ""},
		"IPv6":                        {append([]string{"--address=[2001:db8::1]:9000"}, files...), ""},
		"loopback with certificates":  {append([]string{"--address=127.0.0.2:9000", "--cluster=127.0.0.3:9000"}, files...), ""},
		"network without":             {[]string{"--address=192.0.2.1:9000"}, "certificates are needed"},
		"network, explicitly without": {[]string{"--address=192.0.2.1:9000", "--tls=off"}, "certificates are needed"},
		"join without":                {[]string{"--cluster=127.0.0.3:9000"}, "--cluster needs certificates"},
		"required without":            {[]string{"--tls=required"}, "--tls=required needs"},
		"half the files":              {files[:2], "go together"},
		"contradiction":               {append([]string{"--tls=off"}, files...), "contradicts"},
		"unknown mode":                {[]string{"--tls=maybe"}, "neither required nor off"},
		"name as address":             {[]string{"--address=localhost:9000"}, "IP address"},
		"any address":                 {[]string{"--address=0.0.0.0:9000"}, "IP address"},
		"no port":                     {[]string{"--address=127.0.0.1"}, "missing port"},
		"port 0":                      {[]string{"--address=127.0.0.1:0"}, "not a port"},
		"TCP listener":                {[]string{"--listen=tcp://127.0.0.1:2379"}, "unix:///path"},
		"relative folder":             {[]string{"--storage-dir=data"}, "not an absolute path"},
		"odd latency":                 {[]string{"--network-latency=0s"}, "between"},
		"compaction all the time":     {[]string{"--compact-interval=1ms"}, "less than 1s"},
		"stray word":                  {[]string{"stauts"}, "unknown command"},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := ParseSettings(test.arguments, io.Discard)
			switch {
			case test.complaint == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.complaint != "" && (err == nil || !strings.Contains(err.Error(), test.complaint)):
				t.Errorf("%v does not say %q", err, test.complaint)
			}
		})
	}
}
