package rbd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/header"
	"github.com/growvol/growvol/pkg/rbd/internal/metadata"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds the creation of volumes, the same for empty volumes and for copies: find the
// image, make it, write its record, read it back. The record is written last: an image without it
// is completed by the next call.

// origin makes the content of new images: nothing, or that of a snapshot or volume.
type origin interface {
	// make makes the image of the handle. EEXIST: there is one.
	make(ctx context.Context, s *session, pool ceph.Pool, c creation, h rbdcsi.VolumeHandle, o ceph.ImageOptions) error
	// complete does for an image without a record what make may not have done, such as growing a
	// copy to c.req.Size. Kind AlreadyExists: the image cannot be one that make has left.
	complete(ctx context.Context, s *session, pool ceph.Pool, c creation, f *found) error
}

// Create implements volume.Backend.
func (b *Backend) Create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	v, err := b.create(ctx, req, empty{})
	return v, volume.Wrap(err, "create volume", req.Name)
}

// create returns the volume of the request's name, and creates it if necessary. extraLocks are the
// handles of its source.
func (b *Backend) create(
	ctx context.Context, req volume.CreateRequest, from origin, extraLocks ...string,
) (volume.Volume, error) {
	c, err := b.newCreation(req)
	if err != nil {
		return volume.Volume{}, err
	}
	t := c.task("creating the volume")
	t.locks = append(t.locks, extraLocks...)
	return run(ctx, b, t, func(ctx context.Context, s *session) (volume.Volume, error) {
		f, cached := b.finds.take(req.Name, c.candidates[0].handle)
		if !cached {
			var err error
			if f, err = s.find(ctx, c); err != nil {
				return volume.Volume{}, volume.NonFinal(s.withKind(err), "cannot find out whether the volume exists")
			}
		}
		if f == nil {
			return s.createNew(ctx, c, from)
		}
		v, err := s.useExisting(ctx, c, from, f)
		if errors.Is(err, errHalfCloned) {
			if err = s.removeHalfCloned(ctx, f); err == nil {
				return s.createNew(ctx, c, from)
			}
		}
		return v, volume.NonFinal(s.withKind(err), "image "+f.candidate.handle.String()+" has the name of this volume")
	})
}

// createNew makes the image in the first pool that the request allows and that has space.
func (s *session) createNew(ctx context.Context, c creation, from origin) (volume.Volume, error) {
	pools, err := c.choosePools()
	if err != nil {
		return volume.Volume{}, err
	}
	var v volume.Volume
	for i, candidate := range pools {
		v, err = s.createIn(ctx, c, from, candidate)
		if !volume.IsKind(err, volume.KindOutOfRange) {
			return v, err
		}
		if i < len(pools)-1 {
			s.log.InfoContext(ctx, "the pool has no space for the volume; trying the next pool",
				"name", c.req.Name, "pool", candidate.Name, "error", err)
		}
	}
	if len(c.class.Pools) == 1 || len(c.req.Requisite) == 0 {
		return v, err
	}
	return v, volume.Errorf(volume.KindExhausted, "no pool that the request allows has space for the volume: %w", err).
		WithRemedy("allow the pod to be scheduled to another zone, or request a smaller volume")
}

// createIn makes the image in one pool and completes it.
func (s *session) createIn(ctx context.Context, c creation, from origin, in candidate) (volume.Volume, error) {
	pool, err := s.pool(in.handle.Location)
	if err != nil {
		return volume.Volume{}, err
	}
	if err := s.checkSpace(in.handle.Location, in.DataPool, c.req.Size); err != nil {
		return volume.Volume{}, err
	}
	options := c.class.Options
	options.DataPool = in.DataPool
	isNew, err := s.makeIn(ctx, c, from, pool, in, options)
	if err != nil {
		return volume.Volume{}, err
	}
	v, err := s.completeNew(ctx, c, from, pool, in, isNew)
	return v, volume.NonFinal(s.withKind(err), "image "+in.handle.String()+" was made, but is not complete")
}

// makeIn makes the image; an image that exists is no error, but isNew is false then. An error has a
// kind that is not final if the image may exist.
func (s *session) makeIn(
	ctx context.Context, c creation, from origin, pool ceph.Pool, in candidate, options ceph.ImageOptions,
) (isNew bool, err error) {
	err = from.make(ctx, s, pool, c, in.handle, options)
	if errors.Is(err, unix.EEXIST) {
		isNameOnly, errName := s.removeNameOnly(ctx, pool, in.handle)
		if err = errName; isNameOnly && err == nil {
			err = from.make(ctx, s, pool, c, in.handle, options)
		}
		return isNameOnly && err == nil, volume.NonFinal(s.withKind(err), "image "+in.handle.String()+" may exist")
	}
	if err == nil {
		return true, nil
	}
	err = s.withKind(createError(s.explainTimeout(err, in.handle.Location, in.DataPool, c.req.Size), c, in))
	// Ceph may have made the image nevertheless, such as when only the answer was lost.
	if _, errID := pool.ImageID(in.handle.Image); !errors.Is(errID, unix.ENOENT) {
		err = volume.NonFinal(err, "image "+in.handle.String()+" may exist")
	}
	return false, err
}

// removeNameOnly removes the name of an image that has no header: a call of librbd that was
// interrupted leaves it, and it has no data. It reports whether the name was such a one.
func (s *session) removeNameOnly(ctx context.Context, pool ceph.Pool, h rbdcsi.VolumeHandle) (bool, error) {
	id, err := pool.ImageID(h.Image)
	if errors.Is(err, unix.ENOENT) {
		// Then the directory alone has the name. An interrupted `rbd trash move` leaves that, too:
		// its image is none whose removal was interrupted.
		if err = s.finishInterrupted(ctx, pool, h.Location, h.Image); err == nil {
			_, err = readDirectory(pool, header.IDKey(h.Image))
		}
		return isMissing(err), ignoreMissing(err)
	}
	if err != nil {
		return false, fmt.Errorf("cannot read the id of image %s: %w", h, err)
	}
	if _, err = pool.Metadata(id); !errors.Is(err, unix.ENOENT) {
		return false, err // nil: the image has a header
	}
	s.log.WarnContext(ctx, "an interrupted call has left the name of an image without the image; removing it",
		"image", h.String(), "imageID", id)
	if err := s.discard(ctx, pool, h); err != nil && !errors.Is(err, unix.ENOENT) {
		return false, fmt.Errorf("cannot remove the name of image %s, which has no header: %w", h, err)
	}
	return true, nil
}

// completeNew completes an image that was just made, or that another client has made meanwhile.
func (s *session) completeNew(
	ctx context.Context, c creation, from origin, pool ceph.Pool, in candidate, isNew bool,
) (volume.Volume, error) {
	id, err := pool.ImageID(in.handle.Image)
	if err != nil {
		return volume.Volume{}, fmt.Errorf("cannot read the new image %s: %w", in.handle, err)
	}
	f, err := s.readFound(ctx, pool, in, id)
	if err != nil {
		return volume.Volume{}, err
	}
	f.isNew = isNew
	return s.useExisting(ctx, c, from, f)
}

// useExisting returns the volume of an image, after completing it if its creation was interrupted.
// Kind AlreadyExists: the image is not the requested volume.
func (s *session) useExisting(ctx context.Context, c creation, from origin, f *found) (volume.Volume, error) {
	if !f.isComplete {
		pool, err := s.pool(f.candidate.handle.Location)
		if err != nil {
			return volume.Volume{}, err
		}
		if err := s.complete(ctx, c, from, pool, f); err != nil {
			return volume.Volume{}, err
		}
	}
	if err := c.check(f); err != nil {
		return volume.Volume{}, err
	}
	v := f.toVolume()
	v.VolumeContext = c.volumeContext(f.candidate.handle)
	return v, nil
}

// complete does the steps of the creation that are missing, and writes the record.
func (s *session) complete(ctx context.Context, c creation, from origin, pool ceph.Pool, f *found) error {
	if err := from.complete(ctx, s, pool, c, f); err != nil {
		return err
	}
	if len(c.attributes) > 0 {
		t := target{id: f.candidate.handle.String(), handle: f.candidate.handle, pool: pool}
		if err := t.writeAttributes(f.info.ID, c.attributes); err != nil {
			return err
		}
	}
	f.record = metadata.New(f.info.ID, c.class.Cluster, c.req)
	f.record.Depth = f.depth
	if err := pool.SetMetadata(f.info.ID, metadata.Key, f.record.Encode()); err != nil {
		return fmt.Errorf("cannot write the metadata of image %s: %w", f.candidate.handle, err)
	}
	f.isComplete = true
	return nil
}

// check returns an error of kind AlreadyExists unless the image is the requested volume.
func (c creation) check(f *found) error {
	var difference string
	switch size := volume.Size(f.info.Size); {
	case f.record.Name != c.req.Name:
		difference = fmt.Sprintf("belongs to the volume %q", f.record.Name)
	case f.record.Source() != c.req.Source:
		difference = "was created from another source"
	case f.record.Encrypted != c.req.Encrypted:
		difference = fmt.Sprintf("has encryption by the node %t, not %t", f.record.Encrypted, c.req.Encrypted)
	case size < c.req.Range.Required:
		difference = fmt.Sprintf("has %s, less than the requested %s", size, c.req.Range.Required)
	case c.req.Range.Limit > 0 && size > c.req.Range.Limit:
		difference = fmt.Sprintf("has %s, above the requested limit %s", size, c.req.Range.Limit)
	case len(c.req.Requisite) > 0 && !f.candidate.isAllowed(c.req.Requisite):
		difference = fmt.Sprintf("is reachable from %v only, but the request requires one of %v",
			f.candidate.Topology, c.req.Requisite)
	default:
		return nil
	}
	return volume.Errorf(volume.KindAlreadyExists, "image %s has this name, but %s", f.candidate.handle, difference).
		WithRemedy("if nothing uses the image, delete it; otherwise recreate the claim to get a new name")
}

// volumeContext returns what the node reads of the class, and where the image is.
func (c creation) volumeContext(h rbdcsi.VolumeHandle) map[string]string {
	out := maps.Clone(c.class.Context)
	out[rbdcsi.ParameterCluster], out[rbdcsi.ParameterPool] = h.Cluster, h.Pool
	out[rbdcsi.ParameterImageName] = h.Image
	if h.Namespace != "" {
		out[rbdcsi.ParameterNamespace] = h.Namespace
	}
	return out
}

// empty is the origin of empty volumes.
type empty struct{}

func (empty) make(
	_ context.Context, _ *session, pool ceph.Pool, c creation, h rbdcsi.VolumeHandle, o ceph.ImageOptions,
) error {
	return pool.Create(h.Image, uint64(c.req.Size), o)
}

func (empty) complete(ctx context.Context, s *session, pool ceph.Pool, _ creation, f *found) error {
	if f.hasParent {
		return volume.Errorf(volume.KindAlreadyExists,
			"image %s has this name, but is a clone of %s/%s", f.candidate.handle, f.parent.Pool, f.parent.Image).
			WithRemedy("delete the image if nothing uses it")
	}
	if f.isNew {
		return nil
	}
	return s.checkNoData(ctx, pool, f, usedBytes)
}

// usedBytes is the length of the beginning of an image in which empty.complete searches for data,
// in bytes. Filesystems, partition tables, LUKS and databases write there first.
const usedBytes = 64 << 20

// checkNoData returns an error of kind AlreadyExists if an image without a record has data in its
// first bytes: no interrupted creation of this driver leaves such an image.
func (s *session) checkNoData(ctx context.Context, pool ceph.Pool, f *found, length uint64) error {
	im, err := pool.OpenID(f.info.ID, true)
	if err != nil {
		return fmt.Errorf("cannot open image %s: %w", f.candidate.handle, err)
	}
	defer s.closeImage(ctx, im)
	errData := volume.Errorf(volume.KindAlreadyExists,
		"image %s has this name, but was not created for this volume: it has data, and no metadata of the driver",
		f.candidate.handle).
		WithRemedy("find out what the image is for; if nothing needs its data, delete it; otherwise rename it: rbd rename")
	err = im.Diff("", "", 0, min(f.info.Size, length), func(e ceph.Extent) error {
		if e.Exists {
			return errData
		}
		return nil
	})
	if err != nil && !errors.Is(err, errData) {
		return fmt.Errorf("cannot read whether image %s has data: %w", f.candidate.handle, err)
	}
	return err
}

// createError is the error for an image that Ceph did not make.
func createError(err error, c creation, in candidate) error {
	var kinded *volume.Error
	switch {
	case errors.As(err, &kinded):
		return err
	case errors.Is(err, unix.ENOENT):
		return volume.Errorf(volume.KindInvalid, "cannot create image %s: the namespace %q or the data pool %q "+
			"does not exist: %w", in.handle, in.handle.Namespace, in.DataPool, err).
			WithRemedy("correct radosNamespace or dataPool in the StorageClass, or create them: " +
				"rbd namespace create POOL/NAMESPACE")
	case errors.Is(err, unix.EINVAL):
		return volume.Errorf(volume.KindInvalid, "Ceph does not create image %s with %s and the features %v: %w",
			in.handle, c.req.Size, c.class.Options.Features, err).
			WithRemedy("correct imageFeatures, objectSize, stripeUnit or stripeCount in the StorageClass, " +
				"or request a smaller size")
	}
	return fmt.Errorf("cannot create image %s: %w", in.handle, err)
}

// choosePools returns the pools that the request allows, the preferred ones first. Kind Exhausted:
// there is none.
func (c creation) choosePools() ([]candidate, error) {
	if len(c.req.Requisite) == 0 {
		return c.candidates, nil
	}
	isExcluded := func(p candidate) bool { return !p.isAllowed(c.req.Requisite) }
	allowed := slices.DeleteFunc(slices.Clone(c.candidates), isExcluded)
	if len(allowed) == 0 {
		return nil, volume.Errorf(volume.KindExhausted,
			"no pool of the StorageClass can be reached from one of %v", c.req.Requisite).
			WithRemedy("add a pool of that domain to topologyConstrainedPools, or schedule the pod to another domain")
	}
	slices.SortStableFunc(allowed, func(x, y candidate) int { return c.rank(x) - c.rank(y) })
	return allowed, nil
}

// isAllowed reports whether nodes of one of the topologies can reach the pool.
func (p candidate) isAllowed(requisite []volume.Topology) bool {
	return slices.ContainsFunc(requisite, func(t volume.Topology) bool { return t.IsWithin(p.Topology) })
}

// rank returns the place of a pool in the order of preference.
func (c creation) rank(p candidate) int {
	i := slices.IndexFunc(c.req.Preferred, func(t volume.Topology) bool { return t.IsWithin(p.Topology) })
	if i < 0 {
		return len(c.req.Preferred)
	}
	return i
}
