package loop

import (
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// ids returns the ids of all objects of a class, in order.
func (s *store) ids(c class) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, string(c)))
	if err != nil {
		return nil, volume.Errorf(volume.KindInternal, "list the %s: %w", c, err)
	}
	ids := make([]string, 0, len(entries))
	for _, e := range entries {
		if c.valid(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// page reads one page of a class in the order of ids, without what keep turns
// down. Only the objects of the page are read, so that a page of ten thousand
// volumes costs as little as one of ten; keep costs a reading per object that
// it turns down.
func (s *store) page(ctx context.Context, c class, p volume.Page, keep func(object) bool) ([]object, string, error) {
	after, err := c.parseToken(p.Token)
	if err != nil {
		return nil, "", err
	}
	ids, err := s.ids(c)
	if err != nil {
		return nil, "", err
	}
	// The object named by the token may have been deleted since; the listing
	// goes on behind its place.
	start, found := slices.BinarySearch(ids, after)
	if found {
		start++
	}
	var page []object
	for _, id := range ids[start:] {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		o, err := s.load(c, id)
		if missing(err) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, "", err
		}
		if !keep(o) {
			continue
		}
		// One more than the page holds tells that there is another page.
		if p.Max > 0 && len(page) == p.Max {
			return page, c.token(page[len(page)-1].id), nil
		}
		page = append(page, o)
	}
	return page, "", nil
}

// token is the paging token for "go on after this id".
func (c class) token(id string) string {
	return base64.RawURLEncoding.EncodeToString([]byte("after:" + id))
}

func (c class) parseToken(token string) (string, error) {
	if token == "" {
		return "", nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	id, ok := strings.CutPrefix(string(text), "after:")
	if err != nil || !ok || !c.valid(id) {
		return "", volume.Errorf(volume.KindStale, "the starting token %q is not of a listing of %s", token, c).
			WithRemedy("list again from the start")
	}
	return id, nil
}

// ListVolumes implements volume.Lister.
func (b *Backend) ListVolumes(ctx context.Context, page volume.Page) ([]volume.Volume, string, error) {
	objects, next, err := b.store.page(ctx, volumes, page, func(object) bool { return true })
	if err != nil {
		return nil, "", volume.Wrap(err, "list volumes", "")
	}
	list := make([]volume.Volume, len(objects))
	for i, o := range objects {
		list[i] = b.volume(o)
	}
	return list, next, nil
}

// ListSnapshots implements volume.SnapshotLister.
func (b *Backend) ListSnapshots(ctx context.Context, f volume.SnapshotFilter, page volume.Page) ([]volume.Snapshot, string, error) {
	objects, next, err := b.store.page(ctx, snapshots, page, func(o object) bool {
		return (f.SnapshotID == "" || o.id == f.SnapshotID) && (f.VolumeID == "" || o.VolumeID == f.VolumeID)
	})
	if err != nil {
		return nil, "", volume.Wrap(err, "list snapshots", "")
	}
	list := make([]volume.Snapshot, len(objects))
	for i, o := range objects {
		list[i] = snapshot(o)
	}
	return list, next, nil
}
