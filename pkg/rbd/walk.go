package rbd

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file walks the images in all pools of all clusters that the user may read, in pages: the
// listings of volumes and of snapshots.

// Bounds of one page: the images that are read (each costs two operations, and about ten more if it
// is a volume), and the entries if the caller sets no maximum.
const (
	maxImagesPerPage  = 500
	maxEntriesPerPage = 200
)

// place is a position in the order of a listing: image by image, snapshot by snapshot.
type place struct {
	rbdcsi.Location

	image      string
	snapshotID uint64
}

func (p place) compare(other place) int {
	return cmp.Or(cmp.Compare(p.Cluster, other.Cluster), cmp.Compare(p.Pool, other.Pool),
		cmp.Compare(p.Namespace, other.Namespace), cmp.Compare(p.image, other.image),
		cmp.Compare(p.snapshotID, other.snapshotID))
}

// walk describes a listing.
type walk[E any] struct {
	what  string // for messages: "listing the volumes"
	token string // begins the tokens of its pages before they are encoded
	// volumeID: only the images in the pool of this volume are visited that have or had its name.
	// Empty: all.
	volumeID string
	// visit adds the entries of one image to the page. If that is full before, it sets isFull, and
	// last to the last entry of the image that it has added, if any.
	visit func(ctx context.Context, s *session, p *listing[E], pool ceph.Pool, at place) error
}

// listing is one page in the making.
type listing[E any] struct {
	after   place // the page begins after it
	images  int   // that may still be visited
	max     int   // entries of the page
	entries []E
	last    place // the next page begins after it
	isFull  bool  // there may be more entries after last
}

// list reads one page and returns the token of the next. A page may have fewer entries than the
// maximum, or none.
func (w walk[E]) list(ctx context.Context, b *Backend, request volume.Page) (entries []E, next string, err error) {
	p := listing[E]{images: maxImagesPerPage, max: cmp.Or(request.Max, maxEntriesPerPage)}
	if p.after, err = parseToken(w.token, request.Token); err != nil {
		return nil, "", err
	}
	ids, err := w.clusters(b)
	if err != nil {
		return nil, "", err
	}
	p.last = p.after
	for _, id := range ids {
		if id < p.after.Cluster {
			continue
		}
		// One listing of each cluster at a time, so that a cluster that does not answer costs one thread.
		t := task{what: w.what, cluster: id, pools: poolsOf(w.volumeID), locks: []string{w.token + id}}
		before := p
		p, err = run(ctx, b, t, func(ctx context.Context, s *session) (listing[E], error) {
			part := before
			err := w.listCluster(ctx, s, &part)
			return part, err
		})
		if err != nil {
			return nil, "", err
		}
		if p.isFull {
			return p.entries, p.last.token(w.token), nil
		}
	}
	return p.entries, "", nil
}

// clusters returns the ids of the clusters to list, in order.
func (w walk[E]) clusters(b *Backend) ([]string, error) {
	if w.volumeID == "" {
		ids, err := b.opts.Clusters.IDs()
		return slices.Sorted(slices.Values(ids)), err
	}
	id, err := clusterOf(w.volumeID)
	if volume.IsKind(err, volume.KindNotFound) {
		return nil, nil // no volume has such a handle
	}
	return []string{id}, err
}

// listCluster lists one cluster until the page is full.
func (w walk[E]) listCluster(ctx context.Context, s *session, p *listing[E]) error {
	locations, image, err := s.locationsOf(w.volumeID)
	if err != nil {
		return err
	}
	for _, location := range locations {
		if (place{Location: location, image: "\xff"}).compare(p.after) < 0 {
			continue
		}
		if err := w.listPool(ctx, s, p, location, image); err != nil || p.isFull {
			return err
		}
	}
	return nil
}

// listPool lists one pool or namespace: the images that have or had that name, or all if it is
// empty.
func (w walk[E]) listPool(
	ctx context.Context, s *session, p *listing[E], location rbdcsi.Location, image string,
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
	for _, name := range slices.Sorted(slices.Values(names)) {
		if former, _, _ := splitTombstone(name); image != "" && former != image {
			continue
		}
		end := place{Location: location, image: name, snapshotID: math.MaxUint64}
		if end.compare(p.after) <= 0 {
			continue
		}
		if p.images == 0 {
			p.isFull = true
			return nil
		}
		p.images--
		err := w.visit(ctx, s, p, pool, place{Location: location, image: name})
		if err != nil || p.isFull {
			return err
		}
		p.last = end
	}
	return nil
}

// locationsOf returns the pools to list, and the name of the image if only those of one volume are
// listed.
func (s *session) locationsOf(volumeID string) (locations []rbdcsi.Location, image string, err error) {
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

// token returns the token of the page that begins after the place.
func (p place) token(prefix string) string {
	h := rbdcsi.VolumeHandle{Location: p.Location, Image: p.image}
	return base64.RawURLEncoding.EncodeToString([]byte(fmt.Sprintf("%s%d:%s", prefix, p.snapshotID, h)))
}

// parseToken returns the place after which the page begins; empty: the first page. Kind Stale.
func parseToken(prefix, token string) (place, error) {
	if token == "" {
		return place{}, nil
	}
	decoded, err := base64.RawURLEncoding.DecodeString(token)
	text, ok := strings.CutPrefix(string(decoded), prefix)
	number, handle, hasHandle := strings.Cut(text, ":")
	if err == nil && ok && hasHandle {
		id, errID := strconv.ParseUint(number, 10, 64)
		h, errHandle := rbdcsi.ParseVolumeHandle(handle)
		if errID == nil && errHandle == nil {
			return place{Location: h.Location, image: h.Image, snapshotID: id}, nil
		}
	}
	return place{}, volume.Errorf(volume.KindStale,
		"the starting token %q does not belong to this listing of this driver", token).
		WithRemedy("list again without a token")
}
