package controller

import (
	"cmp"
	"context"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/golang/protobuf/ptypes/timestamp"

	"github.com/growvol/growvol/pkg/volume"
)

// CreateSnapshot creates a snapshot of a volume, or returns the existing one of that name.
func (s *Server) CreateSnapshot(
	ctx context.Context, req *csi.CreateSnapshotRequest,
) (*csi.CreateSnapshotResponse, error) {
	if s.snapshotter == nil {
		return nil, unsupportedError("create snapshots")
	}
	name, source := req.GetName(), req.GetSourceVolumeId()
	if err := cmp.Or(checkName(name), checkRequired("source_volume_id", source)); err != nil {
		return nil, err
	}
	if req.GetAccessibilityRequirements() != nil {
		return nil, volume.Errorf(volume.KindInvalid,
			"accessibility_requirements are set, but this driver lacks the capability SNAPSHOT_ACCESSIBILITY_CONSTRAINTS")
	}
	unlock, unlockSource, err := s.locks.LockWithSource(ctx, source, snapshotNameKey(name))
	if err != nil {
		return nil, err
	}
	defer unlock()
	snapshot, err := s.snapshotter.CreateSnapshot(ctx, volume.SnapshotRequest{
		Name: name, VolumeID: source, Parameters: withoutSecretKeys(req.GetParameters()), OnAccepted: unlockSource,
	})
	if err != nil {
		return nil, volume.Wrap(err, "snapshot volume", source)
	}
	if snapshot.VolumeID != source {
		return nil, volume.Errorf(volume.KindAlreadyExists, "snapshot %s has the name %s, but is a snapshot of volume %s",
			snapshot.ID, name, snapshot.VolumeID)
	}
	return &csi.CreateSnapshotResponse{Snapshot: snapshotToCSI(snapshot)}, nil
}

// DeleteSnapshot deletes a snapshot. It succeeds for a snapshot that does not exist.
func (s *Server) DeleteSnapshot(
	ctx context.Context, req *csi.DeleteSnapshotRequest,
) (*csi.DeleteSnapshotResponse, error) {
	if s.snapshotter == nil {
		return nil, unsupportedError("delete snapshots")
	}
	id := req.GetSnapshotId()
	if err := checkRequired("snapshot_id", id); err != nil {
		return nil, err
	}
	unlock, err := s.locks.Lock(ctx, snapshotKey(id))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.snapshotter.DeleteSnapshot(ctx, id); err != nil && !volume.IsKind(err, volume.KindNotFound) {
		return nil, volume.Wrap(err, "delete snapshot", id)
	}
	return &csi.DeleteSnapshotResponse{}, nil
}

// GetSnapshot reads a snapshot.
func (s *Server) GetSnapshot(ctx context.Context, req *csi.GetSnapshotRequest) (*csi.GetSnapshotResponse, error) {
	if s.snapshotter == nil {
		return nil, unsupportedError("read snapshots")
	}
	if err := checkRequired("snapshot_id", req.GetSnapshotId()); err != nil {
		return nil, err
	}
	snapshot, err := s.snapshotter.GetSnapshot(ctx, req.GetSnapshotId())
	if err != nil {
		return nil, volume.Wrap(err, "read snapshot", req.GetSnapshotId())
	}
	return &csi.GetSnapshotResponse{Snapshot: snapshotToCSI(snapshot)}, nil
}

// ListSnapshots returns one page of the snapshots that the filter matches.
func (s *Server) ListSnapshots(ctx context.Context, req *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	if s.snapshotLister == nil {
		return nil, unsupportedError("list snapshots")
	}
	page, err := parsePage(req)
	if err != nil {
		return nil, err
	}
	filter := volume.SnapshotFilter{SnapshotID: req.GetSnapshotId(), VolumeID: req.GetSourceVolumeId()}
	snapshots, next, err := s.snapshotLister.ListSnapshots(ctx, filter, page)
	if err != nil {
		return nil, volume.Wrap(err, "list snapshots", "")
	}
	resp := &csi.ListSnapshotsResponse{NextToken: next}
	for _, snapshot := range snapshots {
		resp.Entries = append(resp.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: snapshotToCSI(snapshot)})
	}
	return resp, nil
}

func snapshotToCSI(snapshot volume.Snapshot) *csi.Snapshot {
	return &csi.Snapshot{
		SnapshotId:     snapshot.ID,
		SourceVolumeId: snapshot.VolumeID,
		SizeBytes:      snapshot.Size.Bytes(),
		ReadyToUse:     snapshot.Ready,
		CreationTime:   timeToCSI(snapshot.Created),
	}
}

func timeToCSI(t time.Time) *timestamp.Timestamp {
	return &timestamp.Timestamp{Seconds: t.Unix(), Nanos: int32(t.Nanosecond())} //nolint:gosec // below 1e9
}
