// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Each case is a folder as a power cut, or somebody, may have left it.
func TestOpenStorage(t *testing.T) {
	cases := map[string]struct {
		before  []string
		joining bool
		after   []string
		fresh   bool
	}{
		"empty":                         {nil, false, []string{unfinishedMark}, true},
		"file system's own folder":      {[]string{"lost+found"}, false, []string{"lost+found", unfinishedMark}, true},
		"mark alone":                    {[]string{unfinishedMark}, false, []string{unfinishedMark}, true},
		"half made":                     {[]string{unfinishedMark, "info.yaml"}, false, []string{unfinishedMark}, true},
		"made, but never served":        {[]string{unfinishedMark, "info.yaml", "cluster.yaml", "metadata1"}, false, []string{unfinishedMark}, true},
		"served":                        {[]string{"cluster.yaml", "info.yaml"}, false, []string{"cluster.yaml", "info.yaml"}, false},
		"somebody else's":               {[]string{"precious"}, false, []string{"precious"}, false},
		"joining, not known to others":  {[]string{unfinishedMark, "info.yaml"}, true, []string{unfinishedMark}, true},
		"joining, maybe known to them":  {[]string{unfinishedMark, "info.yaml", "cluster.yaml"}, true, []string{"cluster.yaml", "info.yaml", unfinishedMark}, true},
		"file system's folder and data": {[]string{"lost+found", "info.yaml"}, false, []string{"info.yaml", "lost+found"}, false},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, file := range test.before {
				if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			storage, err := OpenStorage(dir, test.joining)
			if err != nil {
				t.Fatal(err)
			}
			defer storage.Close()
			if got := filesIn(t, dir); !slices.Equal(got, test.after) {
				t.Errorf("left %v, want %v", got, test.after)
			}
			if storage.Fresh() != test.fresh {
				t.Errorf("fresh is %v", storage.Fresh())
			}
			if err := storage.Finish(); err != nil {
				t.Fatal(err)
			}
			if slices.Contains(filesIn(t, dir), unfinishedMark) {
				t.Error("the mark is still there after Finish")
			}
		})
	}
}

func TestStorageIsOfOneProcess(t *testing.T) {
	dir := t.TempDir()
	first, err := OpenStorage(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStorage(dir, false); err == nil {
		t.Error("opened twice")
	}
	first.Close()
	again, err := OpenStorage(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func filesIn(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}
