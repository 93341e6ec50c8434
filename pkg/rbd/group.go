package rbd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/grouprecord"
	"github.com/growvol/growvol/pkg/rbd/internal/snapname"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds group snapshots: their creation with all that it leaves or removes, reading and
// deletion. group_quiesce.go takes the snapshots together.
//
// Snapshots of librbd's own groups are not used: before Ceph 19, a snapshot of a group cannot be
// cloned. The members are ordinary snapshots of the driver: they are read, restored and deleted
// like others.

// CreateGroupSnapshot implements volume.GroupSnapshotter. All volumes must be in one cluster, and
// have images with the feature exclusive-lock.
func (b *Backend) CreateGroupSnapshot(
	ctx context.Context, req volume.GroupSnapshotRequest,
) (volume.GroupSnapshot, error) {
	t := task{
		what: "taking the group snapshot", id: req.Name, pools: poolsOf(req.VolumeIDs...),
		locks: []string{"group " + req.Name},
	}
	for _, id := range req.VolumeIDs {
		clusterID, err := clusterOf(id)
		if err == nil && t.cluster != "" && t.cluster != clusterID {
			err = volume.Errorf(volume.KindPrecondition, "the volumes are in the clusters %s and %s, "+
				"and snapshots of several clusters cannot be consistent with each other", t.cluster, clusterID).
				WithRemedy("use labels that select volumes of one cluster only")
		}
		if err == nil {
			err = checkSnapshotParameters(req.Parameters, clusterID)
		}
		if err != nil {
			return volume.GroupSnapshot{}, volume.Wrap(err, "group snapshot", req.Name)
		}
		t.cluster, t.locks = clusterID, append(t.locks, id)
	}
	group, err := run(ctx, b, t, func(ctx context.Context, s *session) (volume.GroupSnapshot, error) {
		return s.createGroup(ctx, req)
	})
	return group, volume.Wrap(err, "group snapshot", req.Name)
}

// createGroup returns the existing group snapshot, or takes it.
func (s *session) createGroup(ctx context.Context, req volume.GroupSnapshotRequest) (volume.GroupSnapshot, error) {
	first, err := s.resolve(req.VolumeIDs[0])
	if err != nil {
		return volume.GroupSnapshot{}, fmt.Errorf("volume %s: %w", req.VolumeIDs[0], err)
	}
	handle := grouprecord.New(first.handle.Location, req.Name)
	record, err := readGroupRecord(first.pool, handle)
	if err == nil {
		group, err := s.existingGroup(ctx, handle, record, req)
		if !volume.IsKind(err, volume.KindNotFound) {
			return group, err
		}
		// The answer to the creation of the object was lost, and the snapshots were removed then.
		err = s.deleteGroup(ctx, handle, nil)
		if err != nil {
			return group, err
		}
	} else if !isMissing(err) {
		return volume.GroupSnapshot{}, err
	}
	return s.newGroup(ctx, first.pool, handle, req)
}

// newGroup takes the group snapshot, and makes its object in the pool.
func (s *session) newGroup(
	ctx context.Context, pool ceph.Pool, handle grouprecord.Handle, req volume.GroupSnapshotRequest,
) (volume.GroupSnapshot, error) {
	var members []*groupMember
	defer func() {
		for _, m := range members {
			s.closeImage(ctx, m.image)
		}
	}()
	for _, id := range req.VolumeIDs {
		m, err := s.openMember(id, req.Name)
		if err != nil {
			err = fmt.Errorf("volume %s: %w", id, err)
			if volume.KindOf(err).IsFinal() { // an earlier call may have left snapshots of the others
				s.undoGroup(ctx, req)
			}
			return volume.GroupSnapshot{}, err
		}
		members = append(members, m)
	}
	record, err := s.takeGroup(ctx, req.Name, members)
	if err == nil {
		err = pool.CreateObject(handle.Object(), record.Encode())
	}
	if err != nil {
		s.undoGroup(ctx, req)
		return volume.GroupSnapshot{}, err
	}
	return s.readGroup(ctx, handle, record)
}

// takeGroup removes what an interrupted creation of the group snapshot has left, takes the
// snapshots together, and reads them back.
func (s *session) takeGroup(ctx context.Context, name string, members []*groupMember) (grouprecord.Record, error) {
	record := grouprecord.Record{Name: name}
	if err := s.checkClients(members); err != nil {
		return record, err
	}
	for _, m := range members {
		if err := s.prepareMember(ctx, m); err != nil {
			return record, fmt.Errorf("volume %s: %w", m.target.id, err)
		}
	}
	var err error
	if record.Created, err = s.quiesceAndSnapshot(ctx, members); err != nil {
		return record, err
	}
	for _, m := range members {
		snapshots, err := s.memberSnapshots(ctx, m)
		if err != nil {
			return record, err
		}
		found, ok := findSnapshot(snapshots, m.claim.Object())
		if !ok {
			return record, volume.Errorf(volume.KindInternal,
				"Ceph reported snapshot %s of image %s as taken, but it does not exist", m.claim.Object(), m.target.spec())
		}
		record.Members = append(record.Members, grouprecord.Member{
			SnapshotID: toSnapshot(m.target.handle.Location, m.info.ID, m.claim, found).ID, VolumeID: m.target.id,
		})
	}
	return record, nil
}

// undoGroup removes the snapshots of a creation that failed. What cannot be removed now is removed
// by the next creation of this name.
func (s *session) undoGroup(ctx context.Context, req volume.GroupSnapshotRequest) {
	for _, id := range req.VolumeIDs {
		if err := s.undoMember(ctx, memberClaim(id, req.Name)); err != nil {
			s.log.WarnContext(ctx, "cannot remove a snapshot of a failed group snapshot; the retry removes it",
				"volume", id, "error", err)
		}
	}
}

// undoMember removes the snapshot of a member, also if its volume was deleted since: the image has
// another name then, and is removed if nothing else needs it.
func (s *session) undoMember(ctx context.Context, claim snapname.Claim) error {
	t, err := s.resolve(claim.VolumeID)
	if volume.IsKind(err, volume.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	claimed, err := s.readClaim(t.pool, claim.Object())
	if err != nil {
		return ignoreMissing(err)
	}
	r, err := s.readRelatives(ctx, t.pool, claimed.ImageID)
	if ignoreMissing(err) != nil {
		return err
	}
	if _, isTaken := findSnapshot(r.snapshots, claim.Object()); isTaken {
		if err := s.removeSnapshotByName(ctx, t, claimed.ImageID, claim.Object()); err != nil {
			return err
		}
	}
	if err := s.removeUnused(ctx, t.handle.Location, claimed.ImageID); err != nil {
		return err
	}
	return s.dropClaim(t.pool, claimed.ImageID, claim.Object())
}

// existingGroup returns the group snapshot if it is of the requested volumes. Kind AlreadyExists.
func (s *session) existingGroup(
	ctx context.Context, handle grouprecord.Handle, record grouprecord.Record, req volume.GroupSnapshotRequest,
) (volume.GroupSnapshot, error) {
	var volumes []string
	for _, m := range record.Members {
		volumes = append(volumes, m.VolumeID)
	}
	if record.Name != req.Name || !slices.Equal(volumes, req.VolumeIDs) {
		return volume.GroupSnapshot{}, volume.Errorf(volume.KindAlreadyExists,
			"group snapshot %s has the name %s, and is of the volumes %q instead of %q",
			handle, record.Name, volumes, req.VolumeIDs)
	}
	return s.readGroup(ctx, handle, record)
}

// readGroup reads the snapshots of the record. Kind NotFound: one of them no longer exists.
func (s *session) readGroup(
	ctx context.Context, handle grouprecord.Handle, record grouprecord.Record,
) (volume.GroupSnapshot, error) {
	group := volume.GroupSnapshot{ID: handle.String(), Created: record.Created}
	for _, m := range record.Members {
		t, err := s.resolveSnapshot(m.SnapshotID)
		if err != nil {
			return group, err
		}
		found, err := s.readSnapshot(ctx, t)
		if err != nil {
			return group, err
		}
		snapshot, err := s.describe(t, found)
		if err != nil {
			return group, err
		}
		snapshot.VolumeID, snapshot.GroupID = m.VolumeID, group.ID
		group.Snapshots = append(group.Snapshots, snapshot)
	}
	return group, nil
}

// readGroupRecord reads the object of a group snapshot. ENOENT.
func readGroupRecord(pool ceph.Pool, handle grouprecord.Handle) (grouprecord.Record, error) {
	content, err := pool.ReadObject(handle.Object())
	if err != nil {
		return grouprecord.Record{}, fmt.Errorf("cannot read the object %s: %w", handle.Object(), err)
	}
	return grouprecord.Decode(handle.Object(), content)
}

// GetGroupSnapshot implements volume.GroupSnapshotter.
func (b *Backend) GetGroupSnapshot(ctx context.Context, id string) (volume.GroupSnapshot, error) {
	handle, err := grouprecord.Parse(id)
	if err != nil {
		return volume.GroupSnapshot{}, volume.Errorf(volume.KindNotFound, "no group snapshot has this handle: %w", err)
	}
	t := task{
		what: "reading the group snapshot", id: id, cluster: handle.Cluster, pools: poolsOf(id),
		locks: []string{"reading " + id},
	}
	group, err := run(ctx, b, t, func(ctx context.Context, s *session) (volume.GroupSnapshot, error) {
		pool, err := s.pool(handle.Location)
		if err != nil {
			return volume.GroupSnapshot{}, err
		}
		record, err := readGroupRecord(pool, handle)
		if isMissing(err) {
			return volume.GroupSnapshot{}, volume.Errorf(volume.KindNotFound, "there is no such group snapshot: %w", err)
		}
		if err != nil {
			return volume.GroupSnapshot{}, err
		}
		return s.readGroup(ctx, handle, record)
	})
	return group, volume.Wrap(err, "read group snapshot", id)
}

// DeleteGroupSnapshot implements volume.GroupSnapshotter. The object of the group snapshot goes
// last.
func (b *Backend) DeleteGroupSnapshot(ctx context.Context, id string, snapshotIDs []string) error {
	handle, err := grouprecord.Parse(id)
	if err != nil {
		return nil //nolint:nilerr // no group snapshot has such a handle
	}
	t := task{
		what: "deleting the group snapshot", id: id, cluster: handle.Cluster, pools: poolsOf(id), locks: []string{id},
	}
	_, err = run(ctx, b, t, func(ctx context.Context, s *session) (struct{}, error) {
		return struct{}{}, s.deleteGroup(ctx, handle, snapshotIDs)
	})
	return volume.Wrap(err, "delete group snapshot", id)
}

func (s *session) deleteGroup(ctx context.Context, handle grouprecord.Handle, snapshotIDs []string) error {
	pool, err := s.pool(handle.Location)
	if err != nil {
		return err
	}
	record, err := readGroupRecord(pool, handle)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	group := volume.GroupSnapshot{ID: handle.String()}
	for _, m := range record.Members {
		group.Snapshots = append(group.Snapshots, volume.Snapshot{ID: m.SnapshotID})
	}
	if err := group.CheckMembers(snapshotIDs); err != nil {
		return err
	}
	for _, m := range record.Members {
		if err := s.deleteSnapshot(ctx, m.SnapshotID); err != nil {
			return fmt.Errorf("snapshot %s: %w", m.SnapshotID, err)
		}
	}
	if err := pool.RemoveObject(handle.Object()); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot remove the object %s: %w", handle.Object(), err)
	}
	return nil
}
