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

// image returns the id and the present name of the image of the snapshot. ENOENT.
func (t snapshotTarget) image() (id, name string, err error) {
	if t.handle.ImageID != "" {
		name, err = imageNameOf(t.pool, t.handle.ImageID)
		return t.handle.ImageID, name, err
	}
	id, err = t.pool.ImageID(t.handle.Image)
	return id, t.handle.Image, err
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
	imageID, imageName string
	snapshot           ceph.Snapshot
}

// readSnapshot reads the snapshot. Kind NotFound.
func (s *session) readSnapshot(ctx context.Context, t snapshotTarget) (foundSnapshot, error) {
	var f foundSnapshot
	var err error
	f.imageID, f.imageName, err = t.image()
	var r relatives
	if err == nil {
		r, err = s.readRelatives(ctx, t.pool, f.imageID)
	}
	switch {
	case isMissing(err):
		return f, t.missingError(err)
	case err != nil:
		return f, fmt.Errorf("cannot read the image of snapshot %s: %w", t.handle, err)
	}
	var ok bool
	if f.snapshot, ok = t.find(r.snapshots); !ok {
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
	t := task{
		what: "reading the snapshot", id: id, cluster: clusterID, pools: poolsOf(id), locks: []string{"reading " + id},
	}
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
		if read.ImageID == f.imageID {
			claim = read
		}
	}
	if claim.VolumeID == "" {
		image, _, _ := splitTombstone(f.imageName)
		claim.VolumeID = rbdcsi.VolumeHandle{Location: t.handle.Location, Image: image}.String()
	}
	if t.cephCSI != "" {
		var err error
		if claim.VolumeID, err = s.cephCSISource(t); err != nil {
			return volume.Snapshot{}, err
		}
	}
	snapshot := toSnapshot(t.handle.Location, f.imageID, claim, f.snapshot)
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
		t := task{
			what: "deleting the snapshot", id: id, cluster: clusterID, pools: poolsOf(id), locks: []string{id},
		}
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
	f, err := s.readSnapshot(ctx, t)
	switch {
	case err == nil:
		err = s.removeSnapshot(ctx, t, f)
	case volume.IsKind(err, volume.KindNotFound):
		err = nil
	}
	if err != nil || f.imageID == "" {
		return err
	}
	return s.removeUnused(ctx, t.handle.Location, f.imageID)
}

// removeSnapshot removes the snapshot with the object of its name. Kind Precondition.
func (s *session) removeSnapshot(ctx context.Context, t snapshotTarget, f foundSnapshot) error {
	if !strings.HasPrefix(f.snapshot.Name, snapname.Prefix) || f.snapshot.IsForeign {
		return volume.Errorf(volume.KindPrecondition, "the driver did not make snapshot %s of image %s",
			f.snapshot.Name, f.imageName).
			WithRemedy("set deletionPolicy of the VolumeSnapshotContent to Retain, or remove the snapshot: rbd snap rm " +
				poolAndNamespace(t.handle.Location) + "/" + f.imageName + "@" + f.snapshot.Name)
	}
	// The object goes first: when the deletion is repeated, the snapshot has its name still.
	if err := s.dropClaim(t.pool, f.imageID, f.snapshot.Name); err != nil {
		return err
	}
	image := target{pool: t.pool, handle: rbdcsi.VolumeHandle{Location: t.handle.Location, Image: f.imageName}}
	if err := s.removeSnapshotByName(ctx, image, f.imageID, f.snapshot.Name); err != nil {
		return s.snapshotRemovalError(err, f.imageName)
	}
	r, err := s.readRelatives(ctx, t.pool, f.imageID)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, ok := t.find(r.snapshots); ok {
		return volume.Errorf(volume.KindInternal, "Ceph reported snapshot %s as removed, but it still exists", t.handle)
	}
	return nil
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
func (s *session) snapshotRemovalError(err error, image string) error {
	if kinded := s.snapshotError(err, image); volume.IsKind(kinded, volume.KindPrecondition) {
		return kinded
	}
	return err
}
