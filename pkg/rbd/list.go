package rbd

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/metadata"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds the listings of volumes: all images with a record of this driver. Images that
// were made by hand or by ceph-csi are not listed: no mark says that they are volumes.

// ListVolumes implements volume.Lister. A page may have fewer volumes than the maximum, or none.
func (b *Backend) ListVolumes(ctx context.Context, page volume.Page) ([]volume.Volume, string, error) {
	all := func(*session, *entry) (bool, error) { return true, nil }
	entries, next, err := volumeWalk("listing the volumes", all).list(ctx, b, page)
	if err != nil {
		return nil, "", volume.Wrap(err, "list volumes", "")
	}
	var volumes []volume.Volume
	for _, e := range entries {
		volumes = append(volumes, e.volume)
	}
	return volumes, next, nil
}

// entry is one volume of a listing with what was read of its image.
type entry struct {
	volume     volume.Volume
	target     target
	info       ceph.ImageInfo
	conditions []volume.Condition // set by ListHealth
}

// volumeWalk returns a walk of the volumes. accept completes an entry and reports whether it
// belongs to the page.
func volumeWalk(what string, accept func(*session, *entry) (bool, error)) walk[entry] {
	visit := func(ctx context.Context, s *session, p *listing[entry], pool ceph.Pool, at place) error {
		h := rbdcsi.VolumeHandle{Location: at.Location, Image: at.image}
		e, found, err := s.readEntry(ctx, target{id: h.String(), handle: h, pool: pool})
		if err == nil && found {
			found, err = accept(s, &e)
		}
		switch {
		case err != nil || !found:
			return err
		case len(p.entries) == p.max:
			p.isFull = true
		default:
			p.entries = append(p.entries, e)
		}
		return nil
	}
	return walk[entry]{what: what, token: "volumes after:", visit: visit}
}

// readEntry reads the image if it is a volume of this cluster; false: it is none, or it was removed
// meanwhile.
func (s *session) readEntry(ctx context.Context, t target) (e entry, found bool, err error) {
	id, err := t.pool.ImageID(t.handle.Image)
	var record metadata.Record
	var nodes []string
	if err == nil {
		record, found, nodes, err = t.readMetadata(id)
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return entry{}, false, nil
	case err != nil:
		return entry{}, false, fmt.Errorf("cannot read image %s: %w", t.handle, err)
	case !found || record.Cluster != s.config.ID || isTombstone(t.handle.Image, id):
		// The same Ceph cluster may be configured twice, with different namespaces or users.
		return entry{}, false, nil
	}
	im, err := t.pool.OpenID(id, true)
	if errors.Is(err, unix.ENOENT) {
		return entry{}, false, nil
	}
	if err != nil {
		return entry{}, false, fmt.Errorf("cannot open image %s: %w", t.handle, err)
	}
	defer s.closeImage(ctx, im)
	info, err := im.Info()
	if err != nil {
		return entry{}, false, fmt.Errorf("cannot read image %s: %w", t.handle, err)
	}
	e = entry{volume: toVolume(t.id, info, record), target: t, info: info}
	e.volume.Nodes = nodes
	return e, true, nil
}
