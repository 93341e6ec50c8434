package fakebackend

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// CreateGroupSnapshot implements volume.GroupSnapshotter.
func (b *Backend) CreateGroupSnapshot(
	ctx context.Context, req volume.GroupSnapshotRequest,
) (volume.GroupSnapshot, error) {
	id := "group-" + req.Name
	if group, err := b.GetGroupSnapshot(ctx, id); err == nil {
		return group, nil
	}
	for _, volumeID := range req.VolumeIDs {
		if _, err := b.Get(ctx, volumeID); err != nil {
			return volume.GroupSnapshot{}, err
		}
	}
	for _, volumeID := range req.VolumeIDs {
		s, err := b.CreateSnapshot(ctx, volume.SnapshotRequest{Name: id + "-" + volumeID, VolumeID: volumeID})
		if err != nil {
			return volume.GroupSnapshot{}, err
		}
		b.mu.Lock()
		s.GroupID = id
		b.snapshots[s.ID] = s
		b.mu.Unlock()
	}
	return b.GetGroupSnapshot(ctx, id)
}

// GetGroupSnapshot implements volume.GroupSnapshotter.
func (b *Backend) GetGroupSnapshot(_ context.Context, id string) (volume.GroupSnapshot, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	group := volume.GroupSnapshot{ID: id, Created: time.Unix(1_700_000_000, 5).UTC()}
	for _, s := range b.snapshots {
		if s.GroupID == id {
			group.Snapshots = append(group.Snapshots, s)
		}
	}
	if len(group.Snapshots) == 0 {
		return group, volume.Errorf(volume.KindNotFound, "there is no such group snapshot")
	}
	slices.SortFunc(group.Snapshots, func(x, y volume.Snapshot) int { return cmp.Compare(x.ID, y.ID) })
	return group, nil
}

// DeleteGroupSnapshot implements volume.GroupSnapshotter.
func (b *Backend) DeleteGroupSnapshot(ctx context.Context, id string, snapshotIDs []string) error {
	group, err := b.GetGroupSnapshot(ctx, id)
	if err != nil {
		return err
	}
	if err := group.CheckMembers(snapshotIDs); err != nil {
		return err
	}
	for _, s := range group.Snapshots {
		if err := b.DeleteSnapshot(ctx, s.ID); err != nil {
			return err
		}
	}
	return nil
}

// Write makes a range of a volume hold data, or change, for Blocks. It must be a multiple of
// BlockSize.
func (b *Backend) Write(id string, r volume.BlockRange) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lastID++
	if b.written[id] == nil {
		b.written[id] = make(map[volume.Size]int)
	}
	for offset := r.Offset; offset < r.Offset+r.Length; offset += BlockSize {
		b.written[id][offset] = b.lastID
	}
}

// BlockSize is the unit of Write and of the ranges of Blocks.
const BlockSize = 64 * volume.KiB

// Blocks implements volume.BlockTracker with one range for each block.
func (b *Backend) Blocks(
	ctx context.Context, req volume.BlocksRequest, each func(volume.BlockRange) error,
) error {
	b.mu.Lock()
	base, target := b.contents[req.BaseID], b.contents[req.SnapshotID]
	b.mu.Unlock()
	if target == nil {
		return volume.Errorf(volume.KindNotFound, "there is no such snapshot")
	}
	var offsets []volume.Size
	for offset, number := range target {
		if number != base[offset] && offset+BlockSize > req.Offset {
			offsets = append(offsets, offset)
		}
	}
	slices.Sort(offsets)
	for _, offset := range offsets {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("listing blocks: %w", err)
		}
		if err := each(volume.BlockRange{Offset: offset, Length: BlockSize}); err != nil {
			return err
		}
	}
	return nil
}
