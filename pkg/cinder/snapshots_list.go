package cinder

import (
	"context"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// shelf is one of the lists that make up a listing of snapshots.
type shelf struct {
	cloud *cloud.Cloud
	kind  string // typeSnapshot or typeBackup
}

// ListSnapshots implements volume.SnapshotLister: the snapshots and then the
// backups of each cloud, as far as they are of this cluster. A filter by
// snapshot or volume shows them whoever has made them. A snapshot that is still
// being made is left out (CSI v1.13, ListSnapshots).
//
// A token is "kind:id@cloud": go on after this one of that list.
func (b *Backend) ListSnapshots(ctx context.Context, filter volume.SnapshotFilter, page volume.Page) ([]volume.Snapshot, string, error) {
	if filter.SnapshotID != "" {
		found, err := b.filtered(ctx, filter)
		return found, "", volume.Wrap(err, "list snapshots", "")
	}
	found, next, err := b.listSnapshots(ctx, filter, page)
	return found, next, volume.Wrap(err, "list snapshots", "")
}

// filtered is the listing of one snapshot, which may not exist.
func (b *Backend) filtered(ctx context.Context, filter volume.SnapshotFilter) ([]volume.Snapshot, error) {
	k, err := b.kept(ctx, filter.SnapshotID)
	if err != nil {
		if volume.IsKind(err, volume.KindNotFound) {
			return nil, nil
		}
		return nil, volume.Wrap(err, "get snapshot", filter.SnapshotID)
	}
	s := k.domain()
	switch {
	case k.snapshot != nil && k.snapshot.Status == snapCreating:
		return nil, nil
	case filter.VolumeID != "" && s.VolumeID != filter.VolumeID:
		return nil, nil
	}
	return []volume.Snapshot{s}, nil
}

func (b *Backend) listSnapshots(ctx context.Context, filter volume.SnapshotFilter, page volume.Page) (found []volume.Snapshot, next string, err error) {
	shelves, err := b.shelves(ctx)
	if err != nil {
		return nil, "", err
	}
	at, marker := 0, ""
	if page.Token != "" {
		position, name, _ := strings.Cut(page.Token, "@")
		kind, after, ok := strings.Cut(position, ":")
		at, marker = slices.IndexFunc(shelves, func(s shelf) bool { return s.cloud.Name() == name && s.kind == kind }), after
		if !ok || at < 0 {
			return nil, "", volume.Errorf(volume.KindStale, "the starting token %q is of no listing of snapshots", page.Token).
				WithRemedy("list again from the start")
		}
	}
	token := func() string { return shelves[at].kind + ":" + marker + "@" + shelves[at].cloud.Name() }
	for ; at < len(shelves); at++ {
		for more := true; more; more = marker != "" {
			if page.Max > 0 && len(found) == page.Max {
				return found, token(), nil
			}
			var some []volume.Snapshot
			limit := 0
			if page.Max > 0 {
				limit = page.Max - len(found)
			}
			some, marker, err = b.take(ctx, shelves[at], filter.VolumeID, marker, limit)
			if err != nil {
				return nil, "", err
			}
			found = append(found, some...)
			if page.Max == 0 && marker != "" {
				return found, token(), nil
			}
		}
	}
	return found, "", nil
}

// shelves are the lists to go through, in order.
func (b *Backend) shelves(ctx context.Context) ([]shelf, error) {
	var clouds []*cloud.Cloud
	var err error
	if name := volume.SecretsFrom(ctx)[secretCloud]; name != "" {
		clouds = make([]*cloud.Cloud, 1)
		clouds[0], err = b.clouds.Cloud(ctx, name)
	} else {
		clouds, err = b.places(ctx)
	}
	if err != nil {
		return nil, err
	}
	var all []shelf
	for _, c := range clouds {
		all = append(all, shelf{c, typeSnapshot}, shelf{c, typeBackup})
	}
	return all, nil
}

// take reads a page of a list and returns what of it belongs into the listing.
func (b *Backend) take(ctx context.Context, from shelf, volumeID, marker string, limit int) (found []volume.Snapshot, next string, err error) {
	// All of a volume are wanted; of the project only what is the cluster's.
	mine := func(metadata map[string]string) bool {
		return b.opts.ClusterID == "" || volumeID != "" || metadata[metaCluster] == b.opts.ClusterID
	}
	if from.kind == typeSnapshot {
		all, next, err := from.cloud.Snapshots(ctx, cloud.SnapshotPage{Marker: marker, Limit: limit, VolumeID: volumeID})
		for _, s := range all {
			if mine(s.Metadata) && s.Metadata[metaBackupOf] == "" && s.Status != snapCreating {
				found = append(found, domainSnapshot(s))
			}
		}
		return found, next, err
	}
	all, next, err := from.cloud.Backups(ctx, cloud.BackupPage{Marker: marker, Limit: limit, VolumeID: volumeID})
	if marker == "" && (volume.IsKind(err, volume.KindDenied) || volume.IsKind(err, volume.KindNotFound)) {
		return nil, "", nil // a cloud that offers this project no backups
	}
	for _, backup := range all {
		// Old clouds keep no metadata of backups.
		if metadata := cloud.MetadataOf(backup); metadata == nil || mine(metadata) {
			found = append(found, domainBackup(backup))
		}
	}
	return found, next, err
}
