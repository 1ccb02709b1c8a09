//go:build tools

// Package tools pins the programs that the integration tests drive. It holds no code: `go mod tidy` keeps what these
// imports need in go.sum, and ./setup builds each of them by its package path.
package tools

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	_ "github.com/containerd/containerd/v2/cmd/ctr"
	_ "github.com/opencontainers/runc"
	_ "sigs.k8s.io/cri-tools/cmd/crictl"
)
