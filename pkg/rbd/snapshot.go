package rbd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/metadata"
	"github.com/growvol/growvol/pkg/rbd/internal/snapname"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds the creation and deletion of snapshots. A snapshot belongs to the driver if its
// name begins with snapname.Prefix; other snapshots are read and restored, but not deleted.

// maxSnapshots bounds the snapshots of an image, with those that wait for their clones. The
// kernel's client maps no image with more than 510 (Linux, drivers/block/rbd.c,
// RBD_MAX_SNAP_COUNT); some are left for temporary snapshots, groups and backup programs.
const maxSnapshots = 500

// paramSnapshotPrefix is a parameter of VolumeSnapshotClasses of ceph-csi. It is accepted; the
// names of snapshots do not depend on it.
const paramSnapshotPrefix = "snapshotNamePrefix"

// CreateSnapshot implements volume.Snapshotter.
func (b *Backend) CreateSnapshot(ctx context.Context, req volume.SnapshotRequest) (volume.Snapshot, error) {
	t, err := volumeTask(req.VolumeID, "taking a snapshot")
	if err == nil {
		err = checkSnapshotParameters(req.Parameters, t.cluster)
	}
	if err != nil {
		return volume.Snapshot{}, volume.Wrap(err, "snapshot", req.VolumeID)
	}
	t.locks = append(t.locks, "snapshot "+t.cluster+" "+req.Name)
	snapshot, err := run(ctx, b, t, func(ctx context.Context, s *session) (volume.Snapshot, error) {
		source, err := s.resolve(req.VolumeID)
		if err != nil {
			return volume.Snapshot{}, err
		}
		return s.createSnapshot(ctx, source, req.Name)
	})
	return snapshot, volume.Wrap(err, "snapshot", req.VolumeID)
}

func checkSnapshotParameters(parameters map[string]string, clusterID string) error {
	for key, value := range parameters {
		switch {
		case strings.HasPrefix(key, metadata.SidecarPrefix), key == paramSnapshotPrefix, key == rbdcsi.ParameterPool:
		case key == rbdcsi.ParameterCluster && value == clusterID:
		case key == rbdcsi.ParameterCluster:
			return volume.Errorf(volume.KindInvalid, "the VolumeSnapshotClass has clusterID %q, but the volume is in cluster %s",
				value, clusterID).WithRemedy("use a VolumeSnapshotClass without clusterID")
		default:
			return volume.Errorf(volume.KindInvalid, "the VolumeSnapshotClass has the unknown parameter %q", key).
				WithRemedy("remove the parameter " + key + " from the VolumeSnapshotClass; the driver needs none")
		}
	}
	return nil
}

// createSnapshot takes the snapshot of that name, or returns the existing one.
func (s *session) createSnapshot(ctx context.Context, source target, name string) (volume.Snapshot, error) {
	if source.handle.Snapshot != "" {
		return volume.Snapshot{}, volume.Errorf(volume.KindPrecondition, "the volume is a snapshot itself").
			WithRemedy("restore it, and take a snapshot of the new volume")
	}
	id, err := source.imageID()
	if err != nil {
		return volume.Snapshot{}, err
	}
	if err := source.checkNotCephCSIEncrypted(); err != nil {
		return volume.Snapshot{}, err
	}
	r, err := s.readRelatives(ctx, source.pool, id)
	if isMissing(err) {
		return volume.Snapshot{}, imageMissingError(source.handle, err)
	}
	if err != nil {
		return volume.Snapshot{}, err
	}
	claim := snapname.Claim{Name: name, VolumeID: source.id, ImageID: id}
	_, exists := findSnapshot(r.snapshots, claim.Object())
	if !exists {
		if err := checkSnapshotCount(r.snapshots, source.spec()); err != nil {
			return volume.Snapshot{}, err
		}
	}
	if err := s.claimName(ctx, source, claim); err != nil {
		return volume.Snapshot{}, err
	}
	if !exists {
		if err := s.takeSnapshot(ctx, source, claim); err != nil {
			return volume.Snapshot{}, err
		}
		if r, err = s.readRelatives(ctx, source.pool, id); err != nil {
			return volume.Snapshot{}, err
		}
	}
	snapshot, ok := findSnapshot(r.snapshots, claim.Object())
	if !ok {
		return volume.Snapshot{}, volume.Errorf(volume.KindInternal,
			"Ceph reported snapshot %s of image %s as taken, but it does not exist", claim.Object(), source.spec())
	}
	return toSnapshot(source.handle.Location, id, claim, snapshot), nil
}

// takeSnapshot takes the snapshot. EEXIST is no error: a call whose answer was lost has taken it.
func (s *session) takeSnapshot(ctx context.Context, source target, claim snapname.Claim) error {
	im, err := source.open(false)
	if err != nil {
		return err
	}
	defer s.closeImage(ctx, im)
	err = s.takeImageSnapshot(ctx, im, source, claim.ImageID, claim.Object())
	if err == nil || errors.Is(err, unix.EEXIST) {
		return nil
	}
	kinded := s.withKind(s.snapshotError(err, source.spec()))
	if volume.KindOf(kinded).IsFinal() {
		// The request will not be repeated. If the object stays, the next request for the
		// name takes it over.
		if err := source.pool.RemoveObject(claim.Object()); err != nil {
			s.log.WarnContext(ctx, "cannot remove the object of a snapshot name", "object", claim.Object(), "error", err)
		}
	}
	return kinded
}

// claimName makes the RADOS object of a snapshot name, which keeps a second volume of the pool from
// having a snapshot of that name. Kind AlreadyExists: another volume has it.
func (s *session) claimName(ctx context.Context, source target, claim snapname.Claim) error {
	err := source.pool.CreateObject(claim.Object(), claim.Encode())
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	other, err := s.readClaim(source.pool, claim.Object())
	if err != nil && !isMissing(err) {
		return err
	}
	if other.ImageID == claim.ImageID {
		return nil
	}
	r, err := s.readRelatives(ctx, source.pool, other.ImageID)
	if err != nil && !isMissing(err) {
		return err
	}
	if _, exists := findSnapshot(r.snapshots, claim.Object()); exists {
		return volume.Errorf(volume.KindAlreadyExists, "volume %s has a snapshot with the name %s, but the request is for a "+
			"snapshot of volume %s", other.VolumeID, claim.Name, source.id).
			WithRemedy("recreate the VolumeSnapshot to get a new name")
	}
	// An interrupted call has left the object.
	if err := source.pool.RemoveObject(claim.Object()); err != nil && !isMissing(err) {
		return fmt.Errorf("cannot remove the object %s: %w", claim.Object(), err)
	}
	if err := source.pool.CreateObject(claim.Object(), claim.Encode()); err != nil {
		return fmt.Errorf("cannot make the object %s: %w", claim.Object(), err)
	}
	return nil
}

// readClaim reads the object of a snapshot name. ENOENT.
func (s *session) readClaim(pool ceph.Pool, object string) (snapname.Claim, error) {
	content, err := pool.ReadObject(object)
	if err != nil {
		return snapname.Claim{}, fmt.Errorf("cannot read the object %s: %w", object, err)
	}
	return snapname.Decode(object, content)
}

// findSnapshot returns the snapshot of that name, unless it was removed.
func findSnapshot(snapshots []ceph.Snapshot, name string) (ceph.Snapshot, bool) {
	for _, snapshot := range snapshots {
		if snapshot.Name == name && !snapshot.IsRemoved && !snapshot.IsForeign {
			return snapshot, true
		}
	}
	return ceph.Snapshot{}, false
}

// checkSnapshotCount returns an error of kind Exhausted if the image can have no more snapshots.
func checkSnapshotCount(snapshots []ceph.Snapshot, spec string) error {
	if len(snapshots) < maxSnapshots {
		return nil
	}
	waiting := 0
	for _, snapshot := range snapshots {
		if snapshot.IsRemoved {
			waiting++
		}
	}
	return volume.Errorf(volume.KindExhausted, "image %s has %d snapshots, %d of which are deleted but have clones; "+
		"nodes cannot map an image with more than 510, and the driver makes at most %d",
		spec, len(snapshots), waiting, maxSnapshots).
		WithRemedy("delete snapshots of the volume, or flatten volumes that were made from it: rbd children --all " + spec)
}

// snapshotError is the error for a snapshot that Ceph did not take.
func (s *session) snapshotError(err error, spec string) error {
	switch {
	case errors.Is(err, unix.EROFS):
		return volume.Errorf(volume.KindPrecondition,
			"image %s is mapped with the option exclusive, which forbids snapshots while it is in use: %w", spec, err).
			WithRemedy("remove exclusive from mapOptions, and restart the pod")
	case errors.Is(err, unix.EDQUOT):
		return volume.Errorf(volume.KindExhausted, "image %s has reached its limit of snapshots: %w", spec, err).
			WithRemedy("delete snapshots, or ask the administrator of the cluster to raise the limit: " +
				"rbd snap limit clear " + spec)
	}
	return fmt.Errorf("cannot take a snapshot of image %s: %w", spec, err)
}

// toSnapshot returns the snapshot as Kubernetes sees it.
func toSnapshot(at rbdcsi.Location, imageID string, claim snapname.Claim, snapshot ceph.Snapshot) volume.Snapshot {
	h := rbdcsi.SnapshotHandle{Location: at, ImageID: imageID, SnapshotID: snapshot.ID}
	return volume.Snapshot{
		ID: h.String(), Name: claim.Name, VolumeID: claim.VolumeID, Size: volume.Size(snapshot.Size),
		Created: snapshot.Created, Ready: true,
	}
}
