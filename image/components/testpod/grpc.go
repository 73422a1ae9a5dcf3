// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// A message on the wire: one byte that says it is not compressed, four with its length, then the message.
const prefix = 5

var errShort = errors.New("the message is cut off")

func frame(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

func unframe(data []byte) ([]byte, error) {
	if len(data) < prefix || len(data)-prefix != int(binary.BigEndian.Uint32(data[1:prefix])) {
		return nil, errShort
	}
	return data[prefix:], nil
}

// echo answers any method with the message that it was called with.
func echo(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(io.LimitReader(r.Body, bodyLimit))
	if err == nil {
		_, err = unframe(data)
	}
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	if err != nil {
		w.Header().Set("Grpc-Status", "3")
		return
	}
	w.Write(data)
	w.Header().Set("Grpc-Status", "0")
}

// call calls SERVICE/METHOD of a server that speaks HTTP/2 without TLS.
func call(address, host, method, message string) func(context.Context, *answer) error {
	return func(ctx context.Context, result *answer) error {
		body := bytes.NewReader(frame([]byte(message)))
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/"+method, body)
		if err != nil {
			return err
		}
		request.Host = host
		request.Header.Set("Content-Type", "application/grpc")
		request.Header.Set("TE", "trailers")
		response, err := (&http.Client{Transport: &http.Transport{Protocols: unencrypted()}}).Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		data, err := io.ReadAll(io.LimitReader(response.Body, bodyLimit))
		if err != nil {
			return err
		}
		result.Status = response.StatusCode
		if status := response.Trailer.Get("Grpc-Status"); status != "0" {
			return fmt.Errorf("HTTP status %d, gRPC status %q", response.StatusCode, status)
		}
		said, err := unframe(data)
		result.Body = string(said)
		return err
	}
}

// unencrypted is HTTP/2 as gRPC speaks it, from its first byte on.
func unencrypted() *http.Protocols {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return protocols
}
