//go:build tools

// Package tools pins the etcd that `hostplane local` builds when no binary can be found.
package tools

import _ "go.etcd.io/etcd/server/v3"
