// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// The story of a storage folder's first minutes, told so that losing power at any point of it is harmless:
//
//  1. An empty folder gets the file named below, made durable before anything else is written.
//  2. dqlite makes its files, the schema is committed.
//  3. The folder is made durable, the mark is removed, the folder is made durable again.
//  4. Only then the etcd API is served.
//
// So a folder with the mark holds nothing that anybody was ever told about, and may be emptied; go-dqlite by itself
// refuses to start from some of those states ("inconsistent info.yaml and cluster.yaml"). A folder without the mark
// is never touched, wherever it came from.
const unfinishedMark = "unfinished-first-start"

// Storage is the locked folder of the data.
type Storage struct {
	dir        string
	lock       *os.File
	unfinished bool
}

// OpenStorage locks the folder and brings it to a state dqlite can start from. A second process gets an error.
func OpenStorage(dir string, joining bool) (*Storage, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%s is in use by another process: %w", dir, err)
	}
	s := &Storage{dir: dir, lock: lock}
	if err := s.prepare(joining); err != nil {
		lock.Close()
		return nil, err
	}
	return s, nil
}

// Fresh says whether nothing in the folder was ever acknowledged.
func (s *Storage) Fresh() bool { return s.unfinished }

func (s *Storage) prepare(joining bool) error {
	names, err := s.names()
	if err != nil {
		return err
	}
	switch {
	case len(names) == 0:
		s.unfinished = true
		return s.writeMark()
	case !exists(filepath.Join(s.dir, unfinishedMark)):
		return nil
	}
	s.unfinished = true
	// A joining member that already has both files may be known to the others under the id written there: keep it,
	// go-dqlite goes on with the join by itself. In every other case start over.
	if joining && exists(filepath.Join(s.dir, "info.yaml")) && exists(filepath.Join(s.dir, "cluster.yaml")) {
		return nil
	}
	for _, name := range names {
		if name == unfinishedMark {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.dir, name)); err != nil {
			return err
		}
	}
	return s.sync()
}

// Finish says that from now on the folder's content counts. It must return before anything is acknowledged.
func (s *Storage) Finish() error {
	if !s.unfinished {
		return nil
	}
	if err := s.sync(); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(s.dir, unfinishedMark)); err != nil {
		return err
	}
	s.unfinished = false
	return s.sync()
}

// Close releases the lock.
func (s *Storage) Close() error { return s.lock.Close() }

func (s *Storage) names() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		// A file system's own folder: StateDirectory= may be a mount point.
		if entry.Name() != "lost+found" {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

func (s *Storage) writeMark() error {
	file, err := os.OpenFile(filepath.Join(s.dir, unfinishedMark), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return err
	}
	return s.sync()
}

// sync makes the folder's entries durable: the folder is its own lock file.
func (s *Storage) sync() error { return s.lock.Sync() }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
