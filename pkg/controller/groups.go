package controller

import (
	"cmp"
	"context"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
)

// This file holds the GroupController service: snapshots of several volumes at one time.

// CreateVolumeGroupSnapshot takes consistent snapshots of several volumes, or returns the existing
// ones of that name.
func (s *Server) CreateVolumeGroupSnapshot(
	ctx context.Context, req *csi.CreateVolumeGroupSnapshotRequest,
) (*csi.CreateVolumeGroupSnapshotResponse, error) {
	if s.groups == nil {
		return nil, unsupportedError("create group snapshots")
	}
	name := req.GetName()
	volumes := slices.Compact(slices.Sorted(slices.Values(req.GetSourceVolumeIds())))
	if err := checkName(name); err != nil {
		return nil, err
	}
	if len(volumes) == 0 || slices.Contains(volumes, "") {
		return nil, volume.Errorf(volume.KindInvalid, "source_volume_ids of the request are empty or have an empty entry")
	}
	unlock, _, err := s.locks.LockWithSource(ctx, groupNameKey(name), volumes...)
	if err != nil {
		return nil, err
	}
	defer unlock()
	group, err := s.groups.CreateGroupSnapshot(ctx, volume.GroupSnapshotRequest{
		Name: name, VolumeIDs: volumes, Parameters: withoutSecretKeys(req.GetParameters()),
	})
	if err == nil {
		err = checkGroup(group, volumes)
	}
	if err != nil {
		return nil, volume.Wrap(err, "create group snapshot", name)
	}
	s.log.InfoContext(ctx, "group snapshot taken", "group", group.ID, "volumes", volumes)
	return &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: groupToCSI(group)}, nil
}

// checkGroup returns an error unless the group snapshot has one snapshot of each volume.
// GroupSnapshotter guarantees that; a snapshot that is missing would be noticed only at the
// restore.
func checkGroup(group volume.GroupSnapshot, volumes []string) error {
	var found []string
	for _, snapshot := range group.Snapshots {
		found = append(found, snapshot.VolumeID)
	}
	slices.Sort(found)
	if !slices.Equal(found, volumes) {
		return volume.Errorf(volume.KindAlreadyExists,
			"group snapshot %s has this name, and has snapshots of the volumes %q instead of %q", group.ID, found, volumes)
	}
	return nil
}

// DeleteVolumeGroupSnapshot deletes a group snapshot with its snapshots. It succeeds for one that
// does not exist.
func (s *Server) DeleteVolumeGroupSnapshot(
	ctx context.Context, req *csi.DeleteVolumeGroupSnapshotRequest,
) (*csi.DeleteVolumeGroupSnapshotResponse, error) {
	if s.groups == nil {
		return nil, unsupportedError("delete group snapshots")
	}
	id := req.GetGroupSnapshotId()
	if err := checkRequired("group_snapshot_id", id); err != nil {
		return nil, err
	}
	unlock, err := s.locks.Lock(ctx, groupKey(id))
	if err != nil {
		return nil, err
	}
	defer unlock()
	err = s.groups.DeleteGroupSnapshot(ctx, id, req.GetSnapshotIds())
	if err != nil && !volume.IsKind(err, volume.KindNotFound) {
		return nil, volume.Wrap(err, "delete group snapshot", id)
	}
	return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
}

// GetVolumeGroupSnapshot reads a group snapshot.
func (s *Server) GetVolumeGroupSnapshot(
	ctx context.Context, req *csi.GetVolumeGroupSnapshotRequest,
) (*csi.GetVolumeGroupSnapshotResponse, error) {
	if s.groups == nil {
		return nil, unsupportedError("read group snapshots")
	}
	id := req.GetGroupSnapshotId()
	if err := checkRequired("group_snapshot_id", id); err != nil {
		return nil, err
	}
	group, err := s.groups.GetGroupSnapshot(ctx, id)
	if err := cmp.Or(err, group.CheckMembers(req.GetSnapshotIds())); err != nil {
		return nil, volume.Wrap(err, "read group snapshot", id)
	}
	return &csi.GetVolumeGroupSnapshotResponse{GroupSnapshot: groupToCSI(group)}, nil
}

// groupToCSI converts a group snapshot. It is ready if all its snapshots are.
func groupToCSI(group volume.GroupSnapshot) *csi.VolumeGroupSnapshot {
	out := &csi.VolumeGroupSnapshot{
		GroupSnapshotId: group.ID, CreationTime: timeToCSI(group.Created), ReadyToUse: true,
	}
	for _, snapshot := range group.Snapshots {
		member := snapshotToCSI(snapshot)
		member.GroupSnapshotId = group.ID // CSI v1.13, Snapshot.group_snapshot_id
		out.Snapshots = append(out.Snapshots, member)
		out.ReadyToUse = out.ReadyToUse && snapshot.Ready
	}
	return out
}
