package rbd

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/metadata"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds the listings: all images with a record of this driver, in all pools of all
// clusters that the user may read. Images that were made by hand or by ceph-csi are not listed: no
// mark says that they are volumes.

// Bounds of one page: the images that are read (each costs two operations, and about ten more if it
// is a volume), and the volumes if the caller sets no maximum.
const (
	maxImagesPerPage  = 500
	maxVolumesPerPage = 200
)

// place is a position in the order of a listing.
type place struct {
	rbdcsi.Location

	image string
}

func (p place) compare(other place) int {
	return cmp.Or(cmp.Compare(p.Cluster, other.Cluster), cmp.Compare(p.Pool, other.Pool),
		cmp.Compare(p.Namespace, other.Namespace), cmp.Compare(p.image, other.image))
}

// ListVolumes implements volume.Lister. A page may have fewer volumes than the maximum, or none.
func (b *Backend) ListVolumes(ctx context.Context, page volume.Page) ([]volume.Volume, string, error) {
	l, next, err := b.list(ctx, page, "listing the volumes", func(*session, *entry) (bool, error) { return true, nil })
	if err != nil {
		return nil, "", volume.Wrap(err, "list volumes", "")
	}
	var volumes []volume.Volume
	for _, e := range l.entries {
		volumes = append(volumes, e.volume)
	}
	return volumes, next, nil
}

// entry is one volume of a listing with what was read of its image.
type entry struct {
	volume     volume.Volume
	target     target
	info       ceph.ImageInfo
	conditions []volume.Condition // set by ListHealth
}

// listing is one page in the making. A copy of it continues when the call of its page has ended.
type listing struct {
	after  place // the page begins after it
	images int   // that may still be read
	max    int   // entries of the page
	// accept completes an entry and reports whether it belongs to the page.
	accept  func(*session, *entry) (bool, error)
	entries []entry
	last    place // the last image that was read, unless it belongs to the next page
	isFull  bool  // there may be more images after last
}

// list reads one page and returns the token of the next.
func (b *Backend) list(
	ctx context.Context, page volume.Page, what string, accept func(*session, *entry) (bool, error),
) (l listing, next string, err error) {
	l = listing{images: maxImagesPerPage, max: page.Max, accept: accept}
	if l.max == 0 {
		l.max = maxVolumesPerPage
	}
	if l.after, err = parseToken(page.Token); err != nil {
		return l, "", err
	}
	ids, err := b.opts.Clusters.IDs()
	if err != nil {
		return l, "", err
	}
	l.last = l.after
	for _, id := range slices.Sorted(slices.Values(ids)) {
		if id < l.after.Cluster {
			continue
		}
		// One listing of each cluster at a time, so that a cluster that does not answer costs one thread.
		t := task{what: what, cluster: id, locks: []string{"listing of " + id}}
		before := l
		l, err = run(ctx, b, t, func(ctx context.Context, s *session) (listing, error) {
			part := before
			part.entries = slices.Clone(before.entries)
			err := s.list(ctx, &part)
			return part, err
		})
		if err != nil {
			return l, "", err
		}
		if l.isFull {
			return l, l.last.token(), nil
		}
	}
	return l, "", nil
}

// list lists one cluster until the page is full.
func (s *session) list(ctx context.Context, l *listing) error {
	locations, err := s.locations()
	if err != nil {
		return err
	}
	for _, location := range locations {
		if (place{Location: location, image: "\xff"}).compare(l.after) < 0 {
			continue
		}
		pool, err := s.pool(location)
		if volume.IsKind(err, volume.KindUnavailable) && errors.Is(err, unix.ENOENT) {
			continue // removed since s.locations
		}
		if err != nil {
			return err
		}
		if err := s.listPool(ctx, l, pool, location); err != nil || l.isFull {
			return err
		}
	}
	return nil
}

// locations returns the pools of the cluster, each with its namespaces, that the user may read.
func (s *session) locations() ([]rbdcsi.Location, error) {
	pools, err := s.cluster.Pools()
	if err != nil {
		return nil, fmt.Errorf("cannot list the pools of cluster %s: %w", s.config.ID, err)
	}
	slices.Sort(pools)
	var all []rbdcsi.Location
	for _, name := range pools {
		location := rbdcsi.Location{Cluster: s.config.ID, Pool: name}
		pool, err := s.pool(location)
		var namespaces []string
		if err == nil {
			namespaces, err = pool.Namespaces()
		}
		switch {
		case isUnreadable(err):
			continue
		case err != nil:
			return nil, fmt.Errorf("cannot list the namespaces of pool %s: %w", name, err)
		}
		for _, namespace := range slices.Sorted(slices.Values(append(namespaces, ""))) {
			location.Namespace = namespace
			all = append(all, location)
		}
	}
	return all, nil
}

// isUnreadable reports whether a pool was removed, or is not for this user.
func isUnreadable(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOENT)
}

// listPool lists one pool or namespace.
func (s *session) listPool(ctx context.Context, l *listing, pool ceph.Pool, location rbdcsi.Location) error {
	names, err := pool.List()
	if isUnreadable(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot list pool %s: %w", location, err)
	}
	slices.Sort(names)
	for _, name := range names {
		here := place{Location: location, image: name}
		if here.compare(l.after) <= 0 {
			continue
		}
		if l.images == 0 {
			l.isFull = true
			return nil
		}
		l.images--
		h := rbdcsi.VolumeHandle{Location: location, Image: name}
		e, found, err := s.readEntry(ctx, target{id: h.String(), handle: h, pool: pool})
		if err == nil && found {
			found, err = l.accept(s, &e)
		}
		switch {
		case err != nil:
			return err
		case found && len(l.entries) == l.max:
			l.isFull = true
			return nil
		case found:
			l.entries = append(l.entries, e)
		}
		l.last = here
	}
	return nil
}

// readEntry reads the image if it is a volume of this cluster; false: it is none, or it was removed
// meanwhile.
func (s *session) readEntry(ctx context.Context, t target) (e entry, found bool, err error) {
	id, err := t.pool.ImageID(t.handle.Image)
	var record metadata.Record
	var nodes []string
	if err == nil {
		record, found, nodes, err = t.readMetadata(id)
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return entry{}, false, nil
	case err != nil:
		return entry{}, false, fmt.Errorf("cannot read image %s: %w", t.handle, err)
	case !found || record.Cluster != s.config.ID || isTombstone(t.handle.Image, id):
		// The same Ceph cluster may be configured twice, with different namespaces or users.
		return entry{}, false, nil
	}
	im, err := t.pool.OpenID(id, true)
	if errors.Is(err, unix.ENOENT) {
		return entry{}, false, nil
	}
	if err != nil {
		return entry{}, false, fmt.Errorf("cannot open image %s: %w", t.handle, err)
	}
	defer s.closeImage(ctx, im)
	info, err := im.Info()
	if err != nil {
		return entry{}, false, fmt.Errorf("cannot read image %s: %w", t.handle, err)
	}
	e = entry{volume: toVolume(t.id, info, record), target: t, info: info}
	e.volume.Nodes = nodes
	return e, true, nil
}

// tokenPrefix begins the token of a page before it is encoded.
const tokenPrefix = "after:"

// token returns the token of the page that begins after the place.
func (p place) token() string {
	h := rbdcsi.VolumeHandle{Location: p.Location, Image: p.image}
	return base64.RawURLEncoding.EncodeToString([]byte(tokenPrefix + h.String()))
}

// parseToken returns the place after which the page begins; empty: the first page. Kind Stale.
func parseToken(token string) (place, error) {
	if token == "" {
		return place{}, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil && len(text) > len(tokenPrefix) && string(text[:len(tokenPrefix)]) == tokenPrefix {
		if h, err := rbdcsi.ParseVolumeHandle(string(text[len(tokenPrefix):])); err == nil {
			return place{Location: h.Location, image: h.Image}, nil
		}
	}
	return place{}, volume.Errorf(volume.KindStale, "the starting token %q does not belong to a listing of this driver", token).
		WithRemedy("list again without a token")
}
