//go:build ceph

package librbd

import (
	"github.com/ceph/go-ceph/rbd"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// This file gives the space of zeros back to the pool.

// image implements the optional interface, too.
var _ ceph.Sparsifier = (*image)(nil)

// sparseSize is the size in bytes of the blocks that are deallocated if they hold zeros: the
// default and the minimum of `rbd sparsify`.
const sparseSize = 4096

// Usage implements ceph.Sparsifier.
func (i *image) Usage(offset, length uint64) (uint64, error) {
	opened, err := i.open()
	if err != nil {
		return 0, err
	}
	var used uint64
	err = opened.DiffIterate(rbd.DiffIterateConfig{
		Offset: offset, Length: length, IncludeParent: rbd.ExcludeParent, WholeObject: rbd.DisableWholeObject,
		Callback: func(_, length uint64, exists int, _ any) int {
			if exists != 0 {
				used += length
			}
			return 0
		},
	})
	return used, wrap(err, "read the usage of image %s", i)
}

// Sparsify implements ceph.Sparsifier.
func (i *image) Sparsify(goOn func() bool) error {
	opened, err := i.open()
	if err != nil {
		return err
	}
	progress := func(uint64, uint64, any) int {
		if goOn() {
			return 0
		}
		return -int(unix.ECANCELED)
	}
	return wrap(opened.SparsifyWithProgress(sparseSize, progress, nil), "sparsify image %s", i)
}
