package loop

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/volume"
)

// CreateSnapshot implements volume.Snapshotter. The snapshot is complete when
// CreateSnapshot succeeds. Error kinds: Deadline (the copy continues after the call),
// Precondition (the volume is connected, and copyFile cannot copy it).
func (b *Backend) CreateSnapshot(ctx context.Context, req volume.SnapshotRequest) (_ volume.Snapshot, err error) {
	defer func() { err = volume.Wrap(err, "snapshot", req.VolumeID) }()
	for key := range req.Parameters {
		if !strings.HasPrefix(key, sidecarPrefix) {
			return volume.Snapshot{}, unknownParameterError("VolumeSnapshotClass", key, "none")
		}
	}
	if err := checkName(req.Name); err != nil {
		return volume.Snapshot{}, err
	}
	o, err := b.loadOrBuild(volumedir.Snapshots, req.Name, func(id string) error { return b.buildSnapshot(ctx, id, req) })
	if err != nil {
		return volume.Snapshot{}, err
	}
	if o.Name != req.Name || o.VolumeID != req.VolumeID {
		return volume.Snapshot{}, volume.Errorf(volume.KindAlreadyExists,
			"the snapshot %s has the name %q and is of volume %s, but the request is for a snapshot %q of volume %s",
			o.ID, o.Name, o.VolumeID, req.Name, req.VolumeID).
			WithRemedy("if nothing uses snapshot " + o.ID +
				", delete it; otherwise recreate the VolumeSnapshot to get a new name")
	}
	return snapshotOf(o), nil
}

func (b *Backend) buildSnapshot(ctx context.Context, id string, req volume.SnapshotRequest) error {
	// The lock prevents the node from connecting the volume during the copy.
	from, unlock, err := b.store.Lock(ctx, volumedir.Volumes, req.VolumeID)
	if err != nil {
		return err
	}
	lease := b.opts.Detached.NewLease(id, unlock)
	defer lease.Release()
	record := volumedir.Record{Name: req.Name, Created: time.Now().UTC(), VolumeID: from.ID}
	o := volumedir.Object{Record: record, Collection: volumedir.Snapshots, ID: id, Size: from.Size}
	return b.build(ctx, lease, o, func(ctx context.Context, data *os.File) error {
		return b.copy(ctx, source{volumedir.Volumes, from.ID}, data)
	})
}

// DeleteSnapshot implements volume.Snapshotter. Volumes that were created from the
// snapshot do not depend on it.
func (b *Backend) DeleteSnapshot(ctx context.Context, id string) error {
	err := b.remove(ctx, volumedir.Snapshots, id, func(volumedir.Object) error { return nil })
	return volume.Wrap(err, "delete snapshot", id)
}

// GetSnapshot implements volume.Snapshotter.
func (b *Backend) GetSnapshot(_ context.Context, id string) (volume.Snapshot, error) {
	o, err := b.store.Load(volumedir.Snapshots, id)
	if err != nil {
		return volume.Snapshot{}, volume.Wrap(err, "get snapshot", id)
	}
	return snapshotOf(o), nil
}

// Restore implements volume.Snapshotter.
func (b *Backend) Restore(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	v, err := b.create(ctx, req, &source{volumedir.Snapshots, req.Source.SnapshotID})
	return v, volume.Wrap(err, "restore", req.Name)
}

// CloneVolume implements volume.Cloner. As with snapshots, a connected source needs a
// filesystem with reflinks.
func (b *Backend) CloneVolume(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	v, err := b.create(ctx, req, &source{volumedir.Volumes, req.Source.VolumeID})
	return v, volume.Wrap(err, "clone", req.Name)
}

func snapshotOf(o volumedir.Object) volume.Snapshot {
	return volume.Snapshot{ID: o.ID, Name: o.Name, VolumeID: o.VolumeID, Size: o.Size, Created: o.Created, Ready: true}
}
