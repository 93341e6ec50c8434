package fakeceph

import (
	"math"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// This file holds how the space of zeros is given back.
var _ ceph.Sparsifier = (*openImage)(nil)

// Zeros is the number of a block that was written with zeros (Server.Write): it occupies space.
const Zeros = math.MaxUint64

// Usage counts whole blocks of 64 KiB.
func (o *openImage) Usage(offset, length uint64) (uint64, error) {
	used := uint64(0)
	err := o.read("Usage", func() error {
		for block, number := range o.image.blocks {
			if at := block * blockSize; number != 0 && at >= offset && at < offset+length {
				used += blockSize
			}
		}
		return nil
	})
	return used, err
}

// Sparsify makes one call for each object.
func (o *openImage) Sparsify(goOn func() bool) error {
	size, err := o.Size()
	for object := uint64(0); err == nil && object*o.image.objectSize < size; object++ {
		if !goOn() {
			return unix.ECANCELED
		}
		err = o.write("Sparsify", func() error {
			for block, number := range o.image.blocks {
				if block*blockSize/o.image.objectSize == object && number == Zeros {
					o.image.blocks[block] = 0
				}
			}
			return nil
		})
	}
	return err
}
