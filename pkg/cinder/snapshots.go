package cinder

import (
	"context"

	"github.com/growvol/growvol/pkg/volume"
)

// CreateSnapshot implements volume.Snapshotter; see snapshot.Service.Create.
func (b *Backend) CreateSnapshot(ctx context.Context, req volume.SnapshotRequest) (volume.Snapshot, error) {
	s, err := b.snapshots.Create(ctx, req)
	return s, volume.Wrap(err, "snapshot", req.VolumeID)
}

// GetSnapshot implements volume.Snapshotter. The id may be that of a backup.
func (b *Backend) GetSnapshot(ctx context.Context, id string) (volume.Snapshot, error) {
	s, err := b.snapshots.Get(ctx, id)
	return s, volume.Wrap(err, "get snapshot", id)
}

// DeleteSnapshot implements volume.Snapshotter: it succeeds when the snapshot or backup is gone;
// see snapshot.Service.Delete.
func (b *Backend) DeleteSnapshot(ctx context.Context, id string) error {
	if err := b.snapshots.Delete(ctx, id); !volume.IsKind(err, volume.KindNotFound) {
		return volume.Wrap(err, "delete snapshot", id)
	}
	return nil
}

// ListSnapshots implements volume.SnapshotLister; see snapshot.Service.List.
func (b *Backend) ListSnapshots(
	ctx context.Context, filter volume.SnapshotFilter, page volume.Page,
) ([]volume.Snapshot, string, error) {
	found, next, err := b.snapshots.List(ctx, filter, page)
	return found, next, volume.Wrap(err, "list snapshots", "")
}
