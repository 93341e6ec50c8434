package loop

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/volume"
)

// ListVolumes implements volume.Lister: one page of the volumes, in the order of their ids.
func (b *Backend) ListVolumes(ctx context.Context, page volume.Page) ([]volume.Volume, string, error) {
	volumes, next, err := listPage(ctx, &b.store, volumedir.Volumes, page, func(id string) (volume.Volume, bool, error) {
		o, err := b.store.Load(volumedir.Volumes, id)
		return b.volumeOf(o), true, err
	})
	return volumes, next, volume.Wrap(err, "list volumes", "")
}

// ListSnapshots implements volume.SnapshotLister.
func (b *Backend) ListSnapshots(
	ctx context.Context, f volume.SnapshotFilter, page volume.Page,
) ([]volume.Snapshot, string, error) {
	read := func(id string) (volume.Snapshot, bool, error) {
		o, err := b.store.Load(volumedir.Snapshots, id)
		matches := (f.SnapshotID == "" || o.ID == f.SnapshotID) && (f.VolumeID == "" || o.VolumeID == f.VolumeID)
		return snapshotOf(o), matches, err
	}
	snapshots, next, err := listPage(ctx, &b.store, volumedir.Snapshots, page, read)
	return snapshots, next, volume.Wrap(err, "list snapshots", "")
}

// listPage returns one page of a collection in the order of ids, and the token of the
// next page. read reads one object and reports whether it belongs to the listing. listPage
// reads only the objects of the page, those that read leaves out, and one more, which
// proves that there is a next page; so a page costs the same in a directory of ten
// thousand volumes as in one of ten. Error kind Stale: the token is not of this listing.
func listPage[T any](
	ctx context.Context, s *store, c volumedir.Collection, page volume.Page, read func(id string) (T, bool, error),
) (entries []T, next string, err error) {
	after, err := parseToken(c, page.Token)
	if err != nil {
		return nil, "", err
	}
	ids, err := s.ids(c)
	if err != nil {
		return nil, "", err
	}
	// The object of the token may have been deleted; then the page begins after its place.
	start, found := slices.BinarySearch(ids, after)
	if found {
		start++
	}
	last := ""
	for _, id := range ids[start:] {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		entry, matches, err := read(id)
		switch {
		case volume.IsKind(err, volume.KindNotFound):
			continue // deleted since s.ids
		case err != nil:
			return nil, "", err
		case !matches:
			continue
		case page.Max > 0 && len(entries) == page.Max:
			return entries, pageToken(last), nil
		}
		entries, last = append(entries, entry), id
	}
	return entries, "", nil
}

const tokenPrefix = "after:"

// pageToken returns the token of the page that begins after the object id.
func pageToken(id string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(tokenPrefix + id))
}

// parseToken returns the id after which the page begins; empty: the first page.
func parseToken(c volumedir.Collection, token string) (string, error) {
	if token == "" {
		return "", nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	id, ok := strings.CutPrefix(string(text), tokenPrefix)
	if err != nil || !ok || !c.IsID(id) {
		return "", volume.Errorf(volume.KindStale, "the starting token %q does not belong to a listing of %s", token, c).
			WithRemedy("list again without a token")
	}
	return id, nil
}
