// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"testing"
)

const testPage = 512

// walOf makes a log of frames: page number, size after commit in pages (0 within a transaction), what fills the page.
func walOf(frames ...[3]uint32) []byte {
	wal := make([]byte, walHeader)
	binary.BigEndian.PutUint32(wal, walMagic)
	binary.BigEndian.PutUint32(wal[8:], testPage)
	copy(wal[walHeaderSaltAt:], "saltsalt")
	for _, each := range frames {
		frame := make([]byte, walFrameHeader+testPage)
		binary.BigEndian.PutUint32(frame, each[0])
		binary.BigEndian.PutUint32(frame[4:], each[1])
		copy(frame[frameSaltAt:], "saltsalt")
		copy(frame[walFrameHeader:], bytes.Repeat([]byte{byte(each[2])}, testPage))
		wal = append(wal, frame...)
	}
	return wal
}

func TestApplyWAL(t *testing.T) {
	old := append(bytes.Repeat([]byte{'a'}, testPage), bytes.Repeat([]byte{'b'}, testPage)...)
	stale := walOf([3]uint32{1, 2, 'z'})
	stale[walHeader+frameSaltAt] = '!'
	cases := map[string]struct {
		wal  []byte
		want string // one letter a page
	}{
		"no log":                   {nil, "ab"},
		"one transaction":          {walOf([3]uint32{2, 2, 'B'}), "aB"},
		"growing":                  {walOf([3]uint32{3, 0, 'c'}, [3]uint32{4, 4, 'd'}), "abcd"},
		"the later wins":           {walOf([3]uint32{1, 2, 'x'}, [3]uint32{1, 2, 'y'}), "yb"},
		"shrinking":                {walOf([3]uint32{1, 1, 'x'}), "x"},
		"transaction under way":    {walOf([3]uint32{1, 2, 'x'}, [3]uint32{2, 0, 'y'}), "xb"},
		"left from an earlier use": {stale, "ab"},
		"torn last frame":          {walOf([3]uint32{1, 2, 'x'}, [3]uint32{2, 2, 'y'})[:walHeader+walFrameHeader+testPage+100], "xb"},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			image, err := applyWAL(old, test.wal)
			if err != nil {
				t.Fatal(err)
			}
			var got []byte
			for at := 0; at < len(image); at += testPage {
				got = append(got, image[at])
			}
			if string(got) != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
	if _, err := applyWAL(old, make([]byte, 100)); err == nil {
		t.Error("zeros were taken for a log")
	}
}
