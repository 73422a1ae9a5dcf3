// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"hash/maphash"
	"testing"
)

func TestNamesLackOnlyWhatWasNeverWritten(t *testing.T) {
	writer, db := testWriter(t, 0)
	ctx := context.Background()
	revision, err := writer.Write(ctx, &write{key: "/there", created: true})
	if err != nil {
		t.Fatal(err)
	}
	if gone, err := writer.Write(ctx, &write{key: "/there", deleted: true, previous: revision}); gone == 0 || err != nil {
		t.Fatal(gone, err)
	}
	known := &names{}
	if known.lacks("/never") {
		t.Error("a key is said to be missing before anything is known")
	}
	if err := known.load(ctx, db); err != nil {
		t.Fatal(err)
	}
	known.add("/attempted")
	for name, want := range map[string]bool{"/there": false, "/attempted": false, "/never": true, "": true} {
		if known.lacks(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
	known.forget()
	if known.lacks("/never") {
		t.Error("something is known though all was forgotten")
	}
}

func TestNamesAreBounded(t *testing.T) {
	known := &names{known: map[uint64]struct{}{}, seed: maphash.MakeSeed()}
	for number := range maxNames + 2 {
		known.add(fmt.Sprint(number))
	}
	if len(known.known) > maxNames || known.lacks("1") || known.lacks("never") {
		t.Errorf("%d names are kept, or what was dropped is said to be missing", len(known.known))
	}
}
