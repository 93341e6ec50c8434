package loop

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/growvol/growvol/pkg/volume"
)

// CreateSnapshot implements volume.Snapshotter. The snapshot is complete when
// it returns; a copy that takes longer than the call goes on (kind Deadline). See copyFile for what it contains of a volume in use, and where
// that is refused (kind Precondition).
func (b *Backend) CreateSnapshot(ctx context.Context, req volume.SnapshotRequest) (volume.Snapshot, error) {
	o, err := b.createSnapshot(ctx, req)
	if err != nil {
		return volume.Snapshot{}, volume.Wrap(err, "snapshot", req.VolumeID)
	}
	return snapshot(o), nil
}

func (b *Backend) createSnapshot(ctx context.Context, req volume.SnapshotRequest) (object, error) {
	for k := range req.Parameters {
		if !strings.HasPrefix(k, sidecarPrefix) {
			return object{}, unknownParameter("VolumeSnapshotClass", k, "none")
		}
	}
	if req.Name == "" || !utf8.ValidString(req.Name) {
		return object{}, volume.Errorf(volume.KindInvalid, "the name %q is empty or not UTF-8", req.Name)
	}
	id := snapshots.id(req.Name)
	for {
		found, err := b.store.load(snapshots, id)
		if err == nil {
			if found.Name != req.Name || found.VolumeID != req.VolumeID {
				return object{}, volume.Errorf(volume.KindAlreadyExists, "the snapshot %s of the name %q is of volume %s", id, found.Name, found.VolumeID).
					WithRemedy("use another name, or delete the snapshot")
			}
			return found, nil
		}
		if !missing(err) {
			return object{}, err
		}
		if err := b.buildSnapshot(ctx, id, req); err != nil && !errors.Is(err, errExists) {
			return object{}, err
		}
	}
}

func (b *Backend) buildSnapshot(ctx context.Context, id string, req volume.SnapshotRequest) error {
	// The lock keeps the node from connecting the volume under the copy.
	from, unlock, err := b.store.lock(ctx, volumes, req.VolumeID)
	if err != nil {
		return err
	}
	l := b.opts.Detached.NewLease(id, unlock)
	defer l.Release()
	r := record{Name: req.Name, Created: time.Now().UTC(), VolumeID: from.id}
	return b.make(ctx, l, object{record: r, class: snapshots, id: id, size: from.size}, func(ctx context.Context, data *os.File) error {
		return b.copy(ctx, source{class: volumes, id: from.id, size: from.size}, data)
	})
}

// DeleteSnapshot implements volume.Snapshotter. Volumes made from the snapshot
// do not depend on it.
func (b *Backend) DeleteSnapshot(ctx context.Context, id string) error {
	return volume.Wrap(b.remove(ctx, snapshots, id, func(object) error { return nil }), "delete snapshot", id)
}

// GetSnapshot implements volume.Snapshotter.
func (b *Backend) GetSnapshot(_ context.Context, id string) (volume.Snapshot, error) {
	o, err := b.store.load(snapshots, id)
	if err != nil {
		return volume.Snapshot{}, volume.Wrap(err, "get snapshot", id)
	}
	return snapshot(o), nil
}

// Restore implements volume.Snapshotter.
func (b *Backend) Restore(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	v, err := b.create(ctx, req, &source{class: snapshots, id: req.Source.SnapshotID})
	return v, volume.Wrap(err, "restore", req.Name)
}

// CloneVolume implements volume.Cloner. As for snapshots, a source in use
// needs a filesystem with reflinks.
func (b *Backend) CloneVolume(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	v, err := b.create(ctx, req, &source{class: volumes, id: req.Source.VolumeID})
	return v, volume.Wrap(err, "clone", req.Name)
}

func snapshot(o object) volume.Snapshot {
	return volume.Snapshot{ID: o.id, Name: o.Name, VolumeID: o.VolumeID, Size: o.size, Created: o.Created, Ready: true}
}
