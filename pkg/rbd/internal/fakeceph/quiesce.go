package fakeceph

import (
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// This file holds snapshots for which other clients wait.

var _ ceph.Quiescer = (*openImage)(nil)

// CreateQuiescedSnapshot implements ceph.Quiescer. Writes of mappings do not wait: tests make them
// in quiesced.
func (o *openImage) CreateQuiescedSnapshot(name string, quiesced func() error) error {
	err := o.run("Image.CreateQuiescedSnapshot", o.image.pool, func() error {
		switch {
		case !o.image.hasFeature("exclusive-lock"):
			return unix.EINVAL
		case o.image.snapshotByName(name) != nil:
			return unix.EEXIST
		}
		return o.image.checkLock(o.client)
	})
	if err != nil {
		return err
	}
	if err := quiesced(); err != nil {
		return err
	}
	return o.run("Image.TakeQuiescedSnapshot", o.image.pool, func() error {
		o.image.addSnapshot(name)
		return nil
	})
}
