package fakebackend

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// CreateSnapshot implements volume.Snapshotter.
func (b *Backend) CreateSnapshot(_ context.Context, req volume.SnapshotRequest) (volume.Snapshot, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, err := b.get(req.VolumeID)
	if err != nil {
		return volume.Snapshot{}, err
	}
	for key := range req.Parameters {
		if key != "ready" && !strings.HasPrefix(key, "csi.storage.k8s.io/") {
			return volume.Snapshot{}, volume.Errorf(volume.KindInvalid, "the parameter %s of the class is unknown", key)
		}
	}
	for _, s := range b.snapshots {
		if s.Name == req.Name {
			if s.VolumeID != req.VolumeID {
				return volume.Snapshot{}, volume.Errorf(volume.KindAlreadyExists,
					"snapshot %s has this name, but is of volume %s", s.ID, s.VolumeID)
			}
			return s, nil
		}
	}
	b.lastID++
	s := volume.Snapshot{
		ID: fmt.Sprintf("snap-%d", b.lastID), Name: req.Name, VolumeID: req.VolumeID, Size: v.Size,
		Created: time.Unix(1_700_000_000, 5).UTC(), Ready: req.Parameters["ready"] != "false",
	}
	b.snapshots[s.ID] = s
	b.contents[s.ID] = map[volume.Size]int{}
	maps.Copy(b.contents[s.ID], b.written[req.VolumeID])
	return s, nil
}

// DeleteSnapshot implements volume.Snapshotter.
func (b *Backend) DeleteSnapshot(_ context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.snapshots, id)
	return nil
}

// GetSnapshot implements volume.Snapshotter.
func (b *Backend) GetSnapshot(_ context.Context, id string) (volume.Snapshot, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.snapshots[id]
	if !ok {
		return s, volume.Errorf(volume.KindNotFound, "there is no such snapshot")
	}
	return s, nil
}

// ListVolumes implements volume.Lister.
func (b *Backend) ListVolumes(_ context.Context, page volume.Page) ([]volume.Volume, string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []volume.Volume
	for _, v := range b.volumes {
		all = append(all, v.Clone())
	}
	slices.SortFunc(all, func(x, y volume.Volume) int { return cmp.Compare(x.ID, y.ID) })
	return paginate(all, page)
}

// ListSnapshots implements volume.SnapshotLister.
func (b *Backend) ListSnapshots(
	_ context.Context, filter volume.SnapshotFilter, page volume.Page,
) ([]volume.Snapshot, string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []volume.Snapshot
	for _, s := range b.snapshots {
		if (filter.SnapshotID == "" || filter.SnapshotID == s.ID) && (filter.VolumeID == "" ||
			filter.VolumeID == s.VolumeID) {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(x, y volume.Snapshot) int { return cmp.Compare(x.ID, y.ID) })
	return paginate(all, page)
}

// paginate returns one page of all. The token is the index of the page's first entry.
func paginate[T any](all []T, page volume.Page) ([]T, string, error) {
	start := 0
	if page.Token != "" {
		n, err := strconv.Atoi(page.Token)
		if err != nil || n < 0 || n > len(all) {
			return nil, "", volume.Errorf(volume.KindStale, "the token %q is not of this listing", page.Token)
		}
		start = n
	}
	all = all[start:]
	if page.Max == 0 || len(all) <= page.Max {
		return all, "", nil
	}
	return all[:page.Max], strconv.Itoa(start + page.Max), nil
}
