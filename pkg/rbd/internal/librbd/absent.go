//go:build !ceph

package librbd

import (
	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/volume"
)

// This file is for builds without Ceph's libraries, which need cgo and make a program dynamic.

// Check returns an error of Kind Unsupported: this program has no Ceph libraries.
func (Dialer) Check() error {
	return volume.Errorf(volume.KindUnsupported, "this program was built without Ceph's libraries").
		WithRemedy("use the image growvol-controller-ceph, or build the program with: make build-ceph")
}

// Connect fails as Check does.
func (d Dialer) Connect(cluster.Cluster) (ceph.Cluster, error) { return nil, d.Check() }
