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

// This file holds how handles of snapshots become snapshots, and the deletion of snapshots.

// snapshotTarget is the snapshot that a handle names.
type snapshotTarget struct {
	id     string // the handle, as Kubernetes has it
	handle rbdcsi.SnapshotHandle
	pool   ceph.Pool
	// cephCSI is the UUID of a snapshot of ceph-csi, which is an image with one snapshot.
	cephCSI string
}

// snapshotCluster returns the cluster of a snapshot handle. Kind NotFound: the text is no handle.
func snapshotCluster(id string) (string, error) {
	if h, ok := rbdcsi.ParseCephCSIHandle(id); ok {
		return h.Cluster, nil
	}
	h, err := rbdcsi.ParseSnapshotHandle(id)
	if err != nil {
		return "", volume.Errorf(volume.KindNotFound, "no snapshot has this handle: %w", err)
	}
	return h.Cluster, nil
}

// resolveSnapshot returns the snapshot that a handle names; it does not prove that it exists.
func (s *session) resolveSnapshot(id string) (snapshotTarget, error) {
	if old, ok := rbdcsi.ParseCephCSIHandle(id); ok {
		return s.resolveCephCSISnapshot(id, old)
	}
	h, err := rbdcsi.ParseSnapshotHandle(id)
	if err != nil {
		return snapshotTarget{}, volume.Errorf(volume.KindNotFound, "no snapshot has this handle: %w", err)
	}
	pool, err := s.pool(h.Location)
	return snapshotTarget{id: id, handle: h, pool: pool}, err
}

// open opens the image of the snapshot. ENOENT.
func (t snapshotTarget) open(readOnly bool) (ceph.Image, error) {
	if t.handle.ImageID != "" {
		return t.pool.OpenID(t.handle.ImageID, readOnly)
	}
	return t.pool.Open(t.handle.Image, readOnly)
}

// find returns the snapshot among those of its image, unless it was removed.
func (t snapshotTarget) find(snapshots []ceph.Snapshot) (ceph.Snapshot, bool) {
	if t.handle.ImageID == "" {
		return findSnapshot(snapshots, t.handle.Snapshot)
	}
	for _, snapshot := range snapshots {
		if snapshot.ID == t.handle.SnapshotID && !snapshot.IsRemoved {
			return snapshot, true
		}
	}
	return ceph.Snapshot{}, false
}

func (t snapshotTarget) missingError(cause error) error {
	if cause == nil {
		return volume.Errorf(volume.KindNotFound, "the image of snapshot %s has no such snapshot", t.handle)
	}
	return volume.Errorf(volume.KindNotFound, "there is no image of snapshot %s: %w", t.handle, cause)
}

// foundSnapshot is a snapshot with its image.
type foundSnapshot struct {
	image    ceph.ImageInfo
	snapshot ceph.Snapshot
}

// readSnapshot reads the snapshot. Kind NotFound.
func (s *session) readSnapshot(ctx context.Context, t snapshotTarget) (foundSnapshot, error) {
	var f foundSnapshot
	im, err := t.open(true)
	if isMissing(err) {
		return f, t.missingError(err)
	}
	if err != nil {
		return f, fmt.Errorf("cannot open the image of snapshot %s: %w", t.handle, err)
	}
	defer s.closeImage(ctx, im)
	snapshots, err := im.Snapshots()
	if err == nil {
		f.image, err = im.Info()
	}
	if err != nil {
		return f, fmt.Errorf("cannot read the image of snapshot %s: %w", t.handle, err)
	}
	var ok bool
	if f.snapshot, ok = t.find(snapshots); !ok {
		return f, t.missingError(nil)
	}
	return f, nil
}

// GetSnapshot implements volume.Snapshotter.
func (b *Backend) GetSnapshot(ctx context.Context, id string) (volume.Snapshot, error) {
	clusterID, err := snapshotCluster(id)
	if err != nil {
		return volume.Snapshot{}, volume.Wrap(err, "read snapshot", id)
	}
	t := task{what: "reading the snapshot", id: id, cluster: clusterID, locks: []string{"reading " + id}}
	snapshot, err := run(ctx, b, t, func(ctx context.Context, s *session) (volume.Snapshot, error) {
		target, err := s.resolveSnapshot(id)
		if err != nil {
			return volume.Snapshot{}, err
		}
		f, err := s.readSnapshot(ctx, target)
		if err != nil {
			return volume.Snapshot{}, err
		}
		return s.describe(target, f)
	})
	return snapshot, volume.Wrap(err, "read snapshot", id)
}

// describe returns the snapshot as Kubernetes sees it.
func (s *session) describe(t snapshotTarget, f foundSnapshot) (volume.Snapshot, error) {
	claim := snapname.Claim{Name: f.snapshot.Name}
	if strings.HasPrefix(f.snapshot.Name, snapname.Prefix) {
		// The object may be missing: a deletion that was interrupted removes it first.
		read, err := s.readClaim(t.pool, f.snapshot.Name)
		if err != nil && !isMissing(err) {
			return volume.Snapshot{}, err
		}
		if read.ImageID == f.image.ID {
			claim = read
		}
	}
	if claim.VolumeID == "" {
		image, _, _ := splitTombstone(f.image.Name)
		claim.VolumeID = rbdcsi.VolumeHandle{Location: t.handle.Location, Image: image}.String()
	}
	if t.cephCSI != "" {
		var err error
		if claim.VolumeID, err = s.cephCSISource(t); err != nil {
			return volume.Snapshot{}, err
		}
	}
	snapshot := toSnapshot(t.handle.Location, f.image.ID, claim, f.snapshot)
	snapshot.ID = t.id
	return snapshot, nil
}

// DeleteSnapshot implements volume.Snapshotter. Kind Precondition: the driver did not make the
// snapshot. A snapshot with clones goes with the last of them; an image whose volume was deleted
// goes with its last snapshot.
func (b *Backend) DeleteSnapshot(ctx context.Context, id string) error {
	clusterID, err := snapshotCluster(id)
	if volume.IsKind(err, volume.KindNotFound) {
		return nil // no snapshot has such a handle
	}
	if err == nil {
		t := task{what: "deleting the snapshot", id: id, cluster: clusterID, locks: []string{id}}
		_, err = run(ctx, b, t, func(ctx context.Context, s *session) (struct{}, error) {
			return struct{}{}, s.deleteSnapshot(ctx, id)
		})
	}
	return volume.Wrap(err, "delete snapshot", id)
}

func (s *session) deleteSnapshot(ctx context.Context, id string) error {
	t, err := s.resolveSnapshot(id)
	if volume.IsKind(err, volume.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if t.cephCSI != "" {
		return s.deleteCephCSISnapshot(ctx, t)
	}
	imageID, err := s.removeSnapshot(ctx, t)
	if err != nil {
		return err
	}
	if imageID == "" {
		return nil
	}
	return s.removeUnused(ctx, t.handle.Location, imageID)
}

// removeSnapshot removes the snapshot with the object of its name, and returns the id of its image;
// empty: the handle has none, and there is no image.
func (s *session) removeSnapshot(ctx context.Context, t snapshotTarget) (imageID string, err error) {
	im, err := t.open(false)
	if isMissing(err) {
		return t.handle.ImageID, nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot open the image of snapshot %s: %w", t.handle, err)
	}
	defer s.closeImage(ctx, im)
	info, err := im.Info()
	var snapshots []ceph.Snapshot
	if err == nil {
		snapshots, err = im.Snapshots()
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the image of snapshot %s: %w", t.handle, err)
	}
	snapshot, ok := t.find(snapshots)
	if !ok {
		return info.ID, nil
	}
	if !strings.HasPrefix(snapshot.Name, snapname.Prefix) || snapshot.IsForeign {
		return "", volume.Errorf(volume.KindPrecondition, "the driver did not make snapshot %s of image %s", snapshot.Name, info.Name).
			WithRemedy("set deletionPolicy of the VolumeSnapshotContent to Retain, or remove the snapshot: rbd snap rm " +
				poolAndNamespace(t.handle.Location) + "/" + info.Name + "@" + snapshot.Name)
	}
	// The object goes first: when the deletion is repeated, the snapshot has its name still.
	if err := s.dropClaim(t.pool, info.ID, snapshot.Name); err != nil {
		return "", err
	}
	if err := im.RemoveSnapshot(snapshot.Name); err != nil && !isMissing(err) {
		return "", s.snapshotRemovalError(err, info.Name, snapshot.Name)
	}
	if snapshots, err = im.Snapshots(); err != nil {
		return "", fmt.Errorf("cannot read whether snapshot %s is gone: %w", t.handle, err)
	}
	if _, ok := t.find(snapshots); ok {
		return "", volume.Errorf(volume.KindInternal, "Ceph reported snapshot %s as removed, but it still exists", t.handle)
	}
	return info.ID, nil
}

// dropClaim removes the object of a snapshot name if it is that of the image.
func (s *session) dropClaim(pool ceph.Pool, imageID, object string) error {
	claim, err := s.readClaim(pool, object)
	if err == nil && claim.ImageID == imageID {
		err = pool.RemoveObject(object)
	}
	if err != nil && !isMissing(err) {
		return fmt.Errorf("cannot remove the object %s: %w", object, err)
	}
	return nil
}

// snapshotRemovalError is the error for a snapshot that Ceph did not remove.
func (s *session) snapshotRemovalError(err error, image, snapshot string) error {
	if kinded := s.snapshotError(err, image); volume.IsKind(kinded, volume.KindPrecondition) {
		return kinded
	}
	return fmt.Errorf("cannot remove snapshot %s of image %s: %w", snapshot, image, err)
}
