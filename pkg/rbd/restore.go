package rbd

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds volumes that are made from snapshots: clones, directly of the snapshot.

// Restore implements volume.Snapshotter.
func (b *Backend) Restore(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	v, err := b.create(ctx, req, &snapshotCopy{source: req.Source.SnapshotID})
	return v, volume.Wrap(err, "restore volume", req.Name)
}

// snapshotCopy is the origin of volumes that are made from snapshots.
type snapshotCopy struct {
	source string // handle
	depth  *int   // of the source; nil: not read
}

func (o *snapshotCopy) resolve(s *session, clusterID string) (snapshotTarget, error) {
	source, err := snapshotCluster(o.source)
	if err != nil {
		return snapshotTarget{}, err
	}
	if source != clusterID {
		return snapshotTarget{}, otherClusterError(source, clusterID)
	}
	return s.resolveSnapshot(o.source)
}

// make implements origin.
func (o *snapshotCopy) make(
	ctx context.Context, s *session, pool ceph.Pool, c creation, h rbdcsi.VolumeHandle, options ceph.ImageOptions,
) error {
	source, err := o.resolve(s, h.Cluster)
	if err != nil {
		return err
	}
	err = o.clone(ctx, s, c, pool, source, h, options)
	if volume.IsKind(err, volume.KindNotFound) {
		// The image may have been renamed since its name was read, because its volume was deleted.
		err = o.clone(ctx, s, c, pool, source, h, options)
	}
	return err
}

// clone clones the snapshot by the present names.
func (o *snapshotCopy) clone(
	ctx context.Context, s *session, c creation, pool ceph.Pool, source snapshotTarget, h rbdcsi.VolumeHandle,
	options ceph.ImageOptions,
) error {
	image, snapshot, imageID, err := s.sourceNames(ctx, source)
	if err != nil {
		return err
	}
	spec := poolAndNamespace(source.handle.Location) + "/" + image
	if source.cephCSI != "" {
		if err := checkEntryNotEncrypted(source.pool, snapshotJournal(), source.cephCSI, spec); err != nil {
			return err
		}
	}
	if o.depth, err = s.checkSourceImage(ctx, c, source.pool, imageID, spec); err != nil {
		return err
	}
	return s.cloneSnapshot(pool, source.pool, image, snapshot, h, options)
}

// sourceNames returns the present names of the image and the snapshot, which Ceph needs to clone,
// and the id of the image. Kind NotFound.
func (s *session) sourceNames(
	ctx context.Context, t snapshotTarget,
) (image, snapshot, imageID string, err error) {
	if t.handle.ImageID == "" {
		imageID, err = t.pool.ImageID(t.handle.Image)
		image, snapshot = t.handle.Image, t.handle.Snapshot
	} else if image, err = imageNameOf(t.pool, t.handle.ImageID); err == nil {
		var found ceph.Snapshot
		imageID = t.handle.ImageID
		found, err = s.snapshotOf(ctx, t.pool, imageID, t.handle.SnapshotID)
		snapshot = found.Name
		if err == nil && found.IsRemoved {
			err = unix.ENOENT
		}
	}
	switch {
	case isMissing(err):
		return "", "", "", t.missingError(err)
	case err != nil:
		return "", "", "", fmt.Errorf("cannot read the names of snapshot %s: %w", t.handle, err)
	}
	return image, snapshot, imageID, nil
}

// complete implements origin.
func (o *snapshotCopy) complete(ctx context.Context, s *session, pool ceph.Pool, c creation, f *found) error {
	source, err := o.resolve(s, f.candidate.handle.Cluster)
	if err != nil {
		return err
	}
	h := source.handle
	isSource := isAt(f.parent, h.Location)
	if h.ImageID != "" {
		isSource = isSource && f.parent.ID == h.ImageID && f.parent.SnapshotID == h.SnapshotID
	} else {
		isSource = isSource && f.parent.Image == h.Image && f.parent.Snapshot == h.Snapshot
	}
	if f.hasParent && !isSource {
		return notCloneError(f, o.source)
	}
	if err := s.checkCloned(ctx, source.pool, f); err != nil {
		return err
	}
	return s.completeClone(ctx, pool, source.pool, c, f, o.depth)
}
