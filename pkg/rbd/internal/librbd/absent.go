//go:build !ceph

package librbd

import (
	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/volume"
)

// This file is for builds without Ceph's libraries: they need cgo, and the program is static without.

// Connect fails: this program has no Ceph libraries.
func (Dialer) Connect(c cluster.Cluster) (ceph.Cluster, error) {
	return nil, volume.Errorf(volume.KindUnsupported,
		"cannot connect to Ceph cluster %s: this program was built without Ceph's libraries", c.ID).
		WithRemedy("use the image growvol-controller-ceph, or build the program with: make build-ceph")
}

// IsLinked reports whether this program has Ceph's libraries.
func IsLinked() bool { return false }
