package fakeceph

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// This file holds snapshots for which other clients wait.

// openImage implements the optional interface, too.
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

// SilentClients implements ceph.Quiescer: mappings after Mapping.CutOff.
func (o *openImage) SilentClients(time.Duration) ([]string, error) {
	var silent []string
	err := o.read("SilentClients", func() error {
		for _, w := range o.image.watches {
			if w.client.isSilent {
				silent = append(silent, w.client.name)
			}
		}
		return nil
	})
	return silent, err
}

// CutOff makes the node of the mapping answer no notification. Its watch stays.
func (m *Mapping) CutOff() {
	m.client.server.mu.Lock()
	defer m.client.server.mu.Unlock()
	m.client.isSilent = true
}
