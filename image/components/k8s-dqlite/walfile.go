// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/canonical/go-dqlite/v2/client"
)

// Sizes and places in SQLite's file formats (https://sqlite.org/fileformat2.html).
const (
	databaseHeader  = 100
	walHeader       = 32
	walFrameHeader  = 24
	versionsAt      = 18 // two bytes: who may write and read; 1 without a write-ahead log, 2 with
	walMagicMask    = 0xfffffffe
	walMagic        = 0x377f0682
	frameSaltAt     = 8
	walHeaderSaltAt = 16
)

// SingleFile makes one SQLite file of a dump, which is a database and its write-ahead log as dqlite holds them in
// memory: the pages of the committed transactions are put in place, and the file is marked as one without a log.
func SingleFile(files []client.File) ([]byte, error) {
	var database, wal []byte
	for _, file := range files {
		if strings.HasSuffix(file.Name, "-wal") {
			wal = file.Data
		} else {
			database = file.Data
		}
	}
	image, err := applyWAL(database, wal)
	if err != nil {
		return nil, err
	}
	if len(image) < databaseHeader {
		return nil, errors.New("the database is empty")
	}
	image[versionsAt], image[versionsAt+1] = 1, 1
	return image, nil
}

// applyWAL copies each frame's page to its place. Frames after the last commit belong to a transaction under way, and
// frames with another salt to an older use of the log: both are left out.
func applyWAL(database, wal []byte) ([]byte, error) {
	if len(wal) < walHeader {
		return database, nil
	}
	if magic := binary.BigEndian.Uint32(wal); magic&walMagicMask != walMagic {
		return nil, fmt.Errorf("%#x is not the beginning of a write-ahead log", magic)
	}
	pageSize := int(binary.BigEndian.Uint32(wal[8:]))
	if pageSize < 512 || pageSize > 65536 {
		return nil, fmt.Errorf("write-ahead log with pages of %d bytes", pageSize)
	}
	salt := string(wal[walHeaderSaltAt : walHeaderSaltAt+8])
	image := append([]byte(nil), database...)
	pending := map[uint32][]byte{}
	for frame := wal[walHeader:]; len(frame) >= walFrameHeader+pageSize; frame = frame[walFrameHeader+pageSize:] {
		if string(frame[frameSaltAt:frameSaltAt+8]) != salt {
			break
		}
		number := binary.BigEndian.Uint32(frame)
		if number == 0 {
			return nil, errors.New("write-ahead log with a page 0")
		}
		pending[number] = frame[walFrameHeader : walFrameHeader+pageSize]
		// Not 0 in the last frame of a transaction: the size of the database after it, in pages.
		if pages := binary.BigEndian.Uint32(frame[4:]); pages != 0 {
			image = place(image, pending, int(pages)*pageSize, pageSize)
			clear(pending)
		}
	}
	return image, nil
}

func place(image []byte, pages map[uint32][]byte, size, pageSize int) []byte {
	if size > len(image) {
		image = append(image, make([]byte, size-len(image))...)
	}
	image = image[:size]
	for number, page := range pages {
		if at := int(number-1) * pageSize; at+pageSize <= size {
			copy(image[at:], page)
		}
	}
	return image
}
