package rbd

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/snapname"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds the listing of snapshots: those that the driver made, in all pools of all
// clusters that the user may read, also of images whose volumes were deleted.

// snapshotPlace is a position in the order of the listing: image by image, snapshot by snapshot.
type snapshotPlace struct {
	place

	snapshotID uint64
}

func (p snapshotPlace) compare(other snapshotPlace) int {
	return cmp.Or(p.place.compare(other.place), cmp.Compare(p.snapshotID, other.snapshotID))
}

// snapshotListing is one page in the making; see listing.
type snapshotListing struct {
	filter    volume.SnapshotFilter
	after     snapshotPlace
	images    int // that may still be read
	max       int
	snapshots []volume.Snapshot
	last      snapshotPlace
	isFull    bool
}

// ListSnapshots implements volume.SnapshotLister. A page may have fewer snapshots than the maximum,
// or none. With a snapshot id it reads that snapshot only, with a volume id the images of that pool
// which have or had the name of the volume.
func (b *Backend) ListSnapshots(
	ctx context.Context, filter volume.SnapshotFilter, page volume.Page,
) ([]volume.Snapshot, string, error) {
	if filter.SnapshotID != "" {
		s, err := b.GetSnapshot(ctx, filter.SnapshotID)
		if volume.IsKind(err, volume.KindNotFound) || err == nil && filter.VolumeID != "" && s.VolumeID != filter.VolumeID {
			return nil, "", nil
		}
		if err != nil {
			return nil, "", err
		}
		return []volume.Snapshot{s}, "", nil
	}
	snapshots, next, err := b.listSnapshots(ctx, filter, page)
	return snapshots, next, volume.Wrap(err, "list snapshots", filter.VolumeID)
}

func (b *Backend) listSnapshots(
	ctx context.Context, filter volume.SnapshotFilter, page volume.Page,
) ([]volume.Snapshot, string, error) {
	l := snapshotListing{filter: filter, images: maxImagesPerPage, max: cmp.Or(page.Max, maxVolumesPerPage)}
	var err error
	if l.after, err = parseSnapshotToken(page.Token); err != nil {
		return nil, "", err
	}
	ids, err := b.opts.Clusters.IDs()
	if err != nil {
		return nil, "", err
	}
	ids = slices.Sorted(slices.Values(ids))
	if filter.VolumeID != "" {
		id, err := clusterOf(filter.VolumeID)
		if volume.IsKind(err, volume.KindNotFound) {
			return nil, "", nil // no volume has such a handle
		}
		ids = []string{id}
	}
	l.last = l.after
	for _, id := range ids {
		if id < l.after.Cluster {
			continue
		}
		t := task{what: "listing the snapshots", cluster: id, locks: []string{"snapshots of " + id}}
		before := l
		l, err = run(ctx, b, t, func(ctx context.Context, s *session) (snapshotListing, error) {
			part := before
			part.snapshots = slices.Clone(before.snapshots)
			return part, s.listSnapshots(ctx, &part)
		})
		if err != nil {
			return nil, "", err
		}
		if l.isFull {
			return l.snapshots, l.last.token(), nil
		}
	}
	return l.snapshots, "", nil
}

// listSnapshots lists one cluster until the page is full.
func (s *session) listSnapshots(ctx context.Context, l *snapshotListing) error {
	locations, image, err := s.snapshotLocations(l.filter.VolumeID)
	if err != nil {
		return err
	}
	for _, location := range locations {
		if (place{Location: location, image: "\xff"}).compare(l.after.place) < 0 {
			continue
		}
		if err := s.listSnapshotsIn(ctx, l, location, image); err != nil || l.isFull {
			return err
		}
	}
	return nil
}

// listSnapshotsIn lists one pool or namespace: the images of that name, or all if it is empty.
func (s *session) listSnapshotsIn(
	ctx context.Context, l *snapshotListing, location rbdcsi.Location, image string,
) error {
	pool, err := s.pool(location)
	var names []string
	if err == nil {
		names, err = pool.List()
	}
	if isUnreadable(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot list pool %s: %w", location, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if former, _, _ := splitTombstone(name); image != "" && former != image {
			continue
		}
		if err := s.listImage(ctx, l, pool, place{Location: location, image: name}); err != nil || l.isFull {
			return err
		}
	}
	return nil
}

// snapshotLocations returns the pools to list, and the name of the image if only one volume's
// snapshots are listed.
func (s *session) snapshotLocations(volumeID string) (locations []rbdcsi.Location, image string, err error) {
	if volumeID == "" {
		locations, err = s.locations()
		return locations, "", err
	}
	t, err := s.resolve(volumeID)
	if volume.IsKind(err, volume.KindNotFound) {
		return nil, "", nil
	}
	return []rbdcsi.Location{t.handle.Location}, t.handle.Image, err
}

// listImage lists the snapshots of one image.
func (s *session) listImage(ctx context.Context, l *snapshotListing, pool ceph.Pool, at place) error {
	if at.compare(l.after.place) < 0 {
		return nil
	}
	if l.images == 0 {
		l.isFull = true
		return nil
	}
	l.images--
	imageID, snapshots, err := s.readSnapshots(ctx, pool, at)
	if isMissing(err) {
		return nil // removed meanwhile
	}
	if err != nil {
		return fmt.Errorf("cannot read image %s of pool %s: %w", at.image, at.Location, err)
	}
	for _, snapshot := range snapshots {
		current := snapshotPlace{place: at, snapshotID: snapshot.ID}
		if current.compare(l.after) <= 0 || !isListed(snapshot) {
			continue
		}
		if len(l.snapshots) == l.max {
			l.isFull = true
			return nil
		}
		h := rbdcsi.SnapshotHandle{Location: at.Location, ImageID: imageID, SnapshotID: snapshot.ID}
		t := snapshotTarget{id: h.String(), handle: h, pool: pool}
		described, err := s.describe(t, foundSnapshot{imageID: imageID, imageName: at.image, snapshot: snapshot})
		if err != nil {
			return err
		}
		l.last = current
		if l.matches(described, s.config.ID) {
			l.snapshots = append(l.snapshots, described)
		}
	}
	// The next page begins after the last snapshot that this image can have.
	l.last = snapshotPlace{place: at, snapshotID: ^uint64(0)}
	return nil
}

// isListed reports whether the snapshot is the driver's and not removed.
func isListed(snapshot ceph.Snapshot) bool {
	return !snapshot.IsRemoved && strings.HasPrefix(snapshot.Name, snapname.Prefix)
}

// matches reports whether the snapshot passes the filter and belongs to the cluster of that id: the
// same Ceph cluster may be configured twice, with different namespaces or users.
func (l *snapshotListing) matches(snapshot volume.Snapshot, clusterID string) bool {
	if id, err := clusterOf(snapshot.VolumeID); err == nil && id != clusterID {
		return false
	}
	return l.filter.VolumeID == "" || snapshot.VolumeID == l.filter.VolumeID
}

// readSnapshots returns the id and the snapshots of the image of that name.
func (s *session) readSnapshots(ctx context.Context, pool ceph.Pool, at place) (string, []ceph.Snapshot, error) {
	imageID, err := pool.ImageID(at.image)
	if err != nil {
		return "", nil, err
	}
	r, err := s.readRelatives(ctx, pool, imageID)
	return imageID, r.snapshots, err
}

// token returns the token of the page that begins after the place.
func (p snapshotPlace) token() string {
	h := rbdcsi.VolumeHandle{Location: p.Location, Image: p.image}
	text := fmt.Sprintf("%s%d:%s", snapshotTokenPrefix, p.snapshotID, h)
	return base64.RawURLEncoding.EncodeToString([]byte(text))
}

// snapshotTokenPrefix begins the token of a page before it is encoded.
const snapshotTokenPrefix = "snapshots after:"

// parseSnapshotToken returns the place after which the page begins; empty: the first page. Kind
// Stale.
func parseSnapshotToken(token string) (snapshotPlace, error) {
	if token == "" {
		return snapshotPlace{}, nil
	}
	decoded, err := base64.RawURLEncoding.DecodeString(token)
	text, ok := strings.CutPrefix(string(decoded), snapshotTokenPrefix)
	number, handle, hasHandle := strings.Cut(text, ":")
	if err == nil && ok && hasHandle {
		id, errID := strconv.ParseUint(number, 10, 64)
		h, errHandle := rbdcsi.ParseVolumeHandle(handle)
		if errID == nil && errHandle == nil {
			return snapshotPlace{place: place{Location: h.Location, image: h.Image}, snapshotID: id}, nil
		}
	}
	return snapshotPlace{}, volume.Errorf(volume.KindStale,
		"the starting token %q does not belong to a listing of snapshots of this driver", token).
		WithRemedy("list again without a token")
}
