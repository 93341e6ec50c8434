//go:build pins

// Package pins imports the programs of the container runtime, so that go.mod has the
// versions that the rig builds.
package pins

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	_ "github.com/containerd/containerd/v2/cmd/ctr"
)
