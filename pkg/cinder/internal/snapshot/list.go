package snapshot

import (
	"context"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
)

// section is a part of a listing: the snapshots or the backups of one cloud.
type section struct {
	cloud *cloud.Cloud
	kind  string // class.TypeSnapshot or class.TypeBackup
}

// ListSnapshots implements volume.SnapshotLister. Without a filter it lists this cluster's
// snapshots and backups: for each cloud the snapshots, then the backups. With a filter it also
// lists those of other clusters. It omits snapshots that Cinder is still taking (CSI v1.13,
// ListSnapshots).
//
// A token is "kind:id@cloud": continue after this object of that section.
func (s *Service) ListSnapshots(
	ctx context.Context, filter volume.SnapshotFilter, page volume.Page,
) ([]volume.Snapshot, string, error) {
	found, next, err := s.list(ctx, filter, page)
	return found, next, volume.Wrap(err, "list snapshots", "")
}

func (s *Service) list(
	ctx context.Context, filter volume.SnapshotFilter, page volume.Page,
) (found []volume.Snapshot, next string, err error) {
	if filter.SnapshotID != "" {
		found, err = s.listOne(ctx, filter)
		return found, "", err
	}
	sections, err := s.sections(ctx)
	if err != nil {
		return nil, "", err
	}
	at, marker := 0, ""
	if page.Token != "" {
		position, name, _ := strings.Cut(page.Token, "@")
		kind, after, ok := strings.Cut(position, ":")
		at = slices.IndexFunc(sections, func(s section) bool { return s.cloud.Name() == name && s.kind == kind })
		marker = after
		if !ok || at < 0 {
			return nil, "", volume.Errorf(volume.KindStale,
				"the starting token %q belongs to no listing of snapshots", page.Token).
				WithRemedy("list again from the start")
		}
	}
	token := func() string { return sections[at].kind + ":" + marker + "@" + sections[at].cloud.Name() }
	for ; at < len(sections); at++ {
		for more := true; more; more = marker != "" {
			if page.Max > 0 && len(found) == page.Max {
				return found, token(), nil
			}
			var some []volume.Snapshot
			limit := max(0, page.Max-len(found)) // 0: no limit
			some, marker, err = s.readSection(ctx, sections[at], filter.VolumeID, marker, limit)
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

// listOne returns the snapshot that the filter names, if it exists and matches the filter.
func (s *Service) listOne(ctx context.Context, filter volume.SnapshotFilter) ([]volume.Snapshot, error) {
	o, err := s.read(ctx, filter.SnapshotID)
	if err != nil {
		if volume.IsKind(err, volume.KindNotFound) {
			return nil, nil
		}
		return nil, volume.Wrap(err, "get snapshot", filter.SnapshotID)
	}
	out := o.toSnapshot()
	isIncomplete := o.snapshot != nil && o.snapshot.Status == state.Creating
	if isIncomplete || filter.VolumeID != "" && out.VolumeID != filter.VolumeID {
		return nil, nil
	}
	return []volume.Snapshot{out}, nil
}

// sections returns the sections of a listing in order: of the cloud that the request names, else of
// all clouds.
func (s *Service) sections(ctx context.Context) ([]section, error) {
	clouds, err := s.locator.Requested(ctx)
	if err != nil {
		return nil, err
	}
	var all []section
	for _, c := range clouds {
		all = append(all, section{c, class.TypeSnapshot}, section{c, class.TypeBackup})
	}
	return all, nil
}

// readSection reads a page of a section. It returns the snapshots that belong to the listing, and
// the marker of the next page. A cloud that denies or lacks backups gives an empty page.
func (s *Service) readSection(
	ctx context.Context, from section, volumeID, marker string, limit int,
) (found []volume.Snapshot, next string, err error) {
	// Unless the listing is of one volume, it omits the objects of other clusters.
	isListed := func(m map[string]string) bool {
		return s.clusterID == "" || volumeID != "" || m[metadata.Cluster] == s.clusterID
	}
	if from.kind == class.TypeSnapshot {
		all, next, err := from.cloud.Snapshots(ctx, cloud.SnapshotPage{Marker: marker, Limit: limit, VolumeID: volumeID})
		for _, one := range all {
			if isListed(one.Metadata) && one.Metadata[metadata.BackupOf] == "" && one.Status != state.Creating {
				found = append(found, fromSnapshot(one))
			}
		}
		return found, next, err
	}
	all, next, err := from.cloud.Backups(ctx, cloud.BackupPage{Marker: marker, Limit: limit, VolumeID: volumeID})
	if marker == "" && (volume.IsKind(err, volume.KindDenied) || volume.IsKind(err, volume.KindNotFound)) {
		return nil, "", nil
	}
	for _, one := range all {
		// Clouds without microversion 3.43 have no metadata of backups.
		if m := cloud.MetadataOf(one); m == nil || isListed(m) {
			found = append(found, fromBackup(one))
		}
	}
	return found, next, err
}
