// SPDX-License-Identifier: Apache-2.0

// Package ext stands in for a module of Traefik's that is part of its repository and of no release: types without fields, by
// which its commercial edition extends the configuration.
package ext

// HTTP extends the configuration of HTTP by nothing.
type HTTP struct{}

// DeepCopyInto copies nothing.
func (*HTTP) DeepCopyInto(*HTTP) {}

// Router extends a router by nothing.
type Router struct{}

// DeepCopyInto copies nothing.
func (*Router) DeepCopyInto(*Router) {}
