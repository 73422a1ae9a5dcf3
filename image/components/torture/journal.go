// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// The outcomes of a write, as its writer was told.
const (
	made     = "made"     // acknowledged
	conflict = "conflict" // the condition did not hold
	unknown  = "unknown"  // no answer, or an error
)

// Record is one write in the journal, one JSON object a line.
type Record struct {
	Run      string `json:"run"`      // of the program: values of different runs differ
	Writer   int    `json:"writer"`   // -1 never occurs
	Number   int    `json:"number"`   // of the writer's writes, from 0
	Key      string `json:"key"`      // shared keys have "/shared/" in them
	Previous int64  `json:"previous"` // revision the key was to have, 0: not to exist
	Value    string `json:"value"`    // unique among all writes; empty: a deletion
	Started  int64  `json:"started"`  // nanoseconds on the clock of the program
	Ended    int64  `json:"ended"`
	Outcome  string `json:"outcome"`
	Revision int64  `json:"revision"` // of an acknowledged write
	Error    string `json:"error,omitempty"`
}

// Journal is written by all writers. A record is durable when Add returns: whoever reads the journal after the machine
// lost its power knows at least every write its writer went on from.
type Journal struct {
	file    *os.File
	durable bool       // a file, not a pipe
	writing sync.Mutex // held by the one flush under way
	mutex   sync.Mutex // guards what follows
	turn    *flush
	buffer  []byte
}

// flush is one write to the disk that several records share.
type flush struct {
	done chan struct{}
	err  error
}

// OpenJournal opens a file, to append behind its last whole record or to start it anew; "-" is standard output, for a reader outside of the machine.
func OpenJournal(path string, add bool) (*Journal, error) {
	if path == "-" {
		return &Journal{file: os.Stdout}, nil
	}
	whole := 0
	if data, err := os.ReadFile(path); add && err == nil {
		whole = bytes.LastIndexByte(data, '\n') + 1
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if err := file.Truncate(int64(whole)); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &Journal{file: file, durable: true}, nil
}

// Add appends a record and waits until it is durable, together with those that came meanwhile.
func (j *Journal) Add(record Record) error {
	line, err := json.Marshal(record)
	if err != nil {
		return err
	}
	j.mutex.Lock()
	j.buffer = append(append(j.buffer, line...), '\n')
	if j.turn == nil {
		j.turn = &flush{done: make(chan struct{})}
		go j.write(j.turn)
	}
	turn := j.turn
	j.mutex.Unlock()
	<-turn.done
	return turn.err
}

func (j *Journal) write(turn *flush) {
	j.writing.Lock()
	defer j.writing.Unlock()
	j.mutex.Lock()
	data := j.buffer
	j.buffer, j.turn = nil, nil
	j.mutex.Unlock()
	if _, turn.err = j.file.Write(data); turn.err == nil && j.durable {
		turn.err = j.file.Sync()
	}
	close(turn.done)
}

// ReadJournal returns all whole records; a torn last line is what a power cut leaves, and was never relied upon.
func ReadJournal(path string) ([]Record, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var records []Record
	reader := bufio.NewReaderSize(file, 1<<20)
	for {
		line, err := reader.ReadBytes('\n')
		if err == io.EOF {
			return records, nil
		}
		if err != nil {
			return nil, err
		}
		var record Record
		if err := json.Unmarshal(line, &record); err != nil {
			return nil, fmt.Errorf("%s: record %d: %w", path, len(records)+1, err)
		}
		records = append(records, record)
	}
}
