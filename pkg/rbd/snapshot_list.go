package rbd

import (
	"context"
	"fmt"
	"strings"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/snapname"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds the listing of snapshots: those that the driver made, also of images whose
// volumes were deleted.

// ListSnapshots implements volume.SnapshotLister. A page may have fewer snapshots than the maximum,
// or none. With a snapshot id it reads that snapshot only, with a volume id the images of that pool
// which have or had the name of the volume.
func (b *Backend) ListSnapshots(
	ctx context.Context, filter volume.SnapshotFilter, page volume.Page,
) ([]volume.Snapshot, string, error) {
	if filter.SnapshotID != "" {
		s, err := b.GetSnapshot(ctx, filter.SnapshotID)
		if volume.IsKind(err, volume.KindNotFound) || err == nil && filter.VolumeID != "" && s.VolumeID != filter.VolumeID {
			return nil, "", nil
		}
		if err != nil {
			return nil, "", err
		}
		return []volume.Snapshot{s}, "", nil
	}
	w := walk[volume.Snapshot]{
		what: "listing the snapshots", token: "snapshots after:", volumeID: filter.VolumeID,
		visit: func(ctx context.Context, s *session, p *listing[volume.Snapshot], pool ceph.Pool, at place) error {
			return s.listSnapshots(ctx, filter, p, pool, at)
		},
	}
	snapshots, next, err := w.list(ctx, b, page)
	return snapshots, next, volume.Wrap(err, "list snapshots", filter.VolumeID)
}

// listSnapshots adds the snapshots of one image to the page.
func (s *session) listSnapshots(
	ctx context.Context, filter volume.SnapshotFilter, p *listing[volume.Snapshot], pool ceph.Pool, at place,
) error {
	imageID, snapshots, err := s.readSnapshots(ctx, pool, at)
	if isMissing(err) {
		return nil // removed meanwhile
	}
	if err != nil {
		return fmt.Errorf("cannot read image %s of pool %s: %w", at.image, at.Location, err)
	}
	for _, snapshot := range snapshots {
		current := at
		current.snapshotID = snapshot.ID
		if current.compare(p.after) <= 0 || !isListed(snapshot) {
			continue
		}
		if len(p.entries) == p.max {
			p.isFull = true
			return nil
		}
		h := rbdcsi.SnapshotHandle{Location: at.Location, ImageID: imageID, SnapshotID: snapshot.ID}
		t := snapshotTarget{id: h.String(), handle: h, pool: pool}
		described, err := s.describe(t, foundSnapshot{imageID: imageID, imageName: at.image, snapshot: snapshot})
		if err != nil {
			return err
		}
		p.last = current
		if matches(filter, described, s.config.ID) {
			p.entries = append(p.entries, described)
		}
	}
	return nil
}

// isListed reports whether the snapshot is the driver's and not removed.
func isListed(snapshot ceph.Snapshot) bool {
	return !snapshot.IsRemoved && strings.HasPrefix(snapshot.Name, snapname.Prefix)
}

// matches reports whether the snapshot passes the filter and belongs to the cluster of that id: the
// same Ceph cluster may be configured twice, with different namespaces or users.
func matches(filter volume.SnapshotFilter, snapshot volume.Snapshot, clusterID string) bool {
	if id, err := clusterOf(snapshot.VolumeID); err == nil && id != clusterID {
		return false
	}
	return filter.VolumeID == "" || snapshot.VolumeID == filter.VolumeID
}

// readSnapshots returns the id and the snapshots of the image of that name.
func (s *session) readSnapshots(ctx context.Context, pool ceph.Pool, at place) (string, []ceph.Snapshot, error) {
	imageID, err := pool.ImageID(at.image)
	if err != nil {
		return "", nil, err
	}
	r, err := s.readRelatives(ctx, pool, imageID)
	return imageID, r.snapshots, err
}
