package rbd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds clones that an interrupted call has left half made. librbd makes a clone in
// steps: an empty image, in which it writes the parent; then it adds the clone to the children of
// the snapshot. A snapshot that does not know a clone goes when it is removed, and the data of the
// clone with it. Such a clone is removed and made again.

// errHalfCloned says that librbd has not finished the image as a clone.
var errHalfCloned = errors.New("an interrupted call has left the image half cloned")

// checkCloned returns errHalfCloned, with kind Unavailable, unless the parent of an image without a
// record knows it as its clone. parent is the pool of the source.
func (s *session) checkCloned(ctx context.Context, parent ceph.Pool, f *found) error {
	if f.isNew {
		return nil // librbd has reported success
	}
	isChild, err := s.isChild(ctx, parent, f)
	if err != nil || isChild {
		return err
	}
	return volume.Errorf(volume.KindUnavailable, "image %s: %w", f.candidate.handle, errHalfCloned).
		WithRemedy(retryRemedy)
}

// isChild reports whether the image is among the clones of its parent.
func (s *session) isChild(ctx context.Context, parent ceph.Pool, f *found) (bool, error) {
	if !f.hasParent {
		return false, nil
	}
	im, err := parent.OpenID(f.parent.ID, true)
	if isMissing(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot open image id %s: %w", f.parent.ID, err)
	}
	defer s.closeImage(ctx, im)
	children, err := im.Children()
	if err != nil {
		return false, fmt.Errorf("cannot list the clones of image id %s: %w", f.parent.ID, err)
	}
	return slices.ContainsFunc(children, func(child ceph.ImageName) bool {
		return child.ID == f.info.ID && isAt(child, f.candidate.handle.Location)
	}), nil
}

// removeHalfCloned removes an image of which checkCloned has returned errHalfCloned. Kind
// AlreadyExists: it has metadata, data or snapshots, so that no interrupted call has left it.
func (s *session) removeHalfCloned(ctx context.Context, f *found) error {
	pool, err := s.pool(f.candidate.handle.Location)
	if err != nil {
		return err
	}
	all, err := readMetadata(pool, f.info.ID)
	if err != nil {
		return err
	}
	if len(all) > 0 { // librbd copies the metadata of the parent last
		return notCloneError(f, "the source of the request")
	}
	if err := s.checkNoOwnData(ctx, pool, f); err != nil {
		return err
	}
	s.log.WarnContext(ctx, "an interrupted call has left an image half cloned; making it again",
		"image", f.candidate.handle.String(), "imageID", f.info.ID)
	err = s.discard(ctx, pool, f.candidate.handle)
	switch {
	case errors.Is(err, unix.ENOTEMPTY):
		return notCloneError(f, "the source of the request")
	case errors.Is(err, unix.EBUSY):
		return s.tombstoneInUseError(ctx, pool, f.candidate.handle.Location, f.candidate.handle.Image, f.info.ID)
	case err != nil && !isMissing(err):
		return fmt.Errorf("cannot remove the half cloned image %s: %w", f.candidate.handle, err)
	}
	return nil
}

// discard removes an image, or a name without an image, that an interrupted creation has left.
// Errors: those of ceph.Pool.Remove.
func (s *session) discard(ctx context.Context, pool ceph.Pool, h rbdcsi.VolumeHandle) error {
	object := removalByName + h.Image
	if err := s.recordRemoval(ctx, pool, h.Location, object, removal{IsDiscarded: true}); err != nil {
		return err
	}
	err := pool.Remove(h.Image)
	switch {
	case errors.Is(err, unix.ENOTEMPTY): // it is no such image
		return errors.Join(err, s.dropRemoval(pool, object))
	case err != nil && !isMissing(err):
		return err
	}
	return s.finishRemoval(ctx, pool, h.Location, object)
}

// checkNoOwnData returns an error of kind AlreadyExists if the image has data besides those of its
// parent. A clone that was almost flattened, by hand, is no clone of its parent any more either.
func (s *session) checkNoOwnData(ctx context.Context, pool ceph.Pool, f *found) error {
	if !f.hasParent {
		return s.checkNoData(ctx, pool, f, math.MaxUint64)
	}
	im, err := pool.OpenID(f.info.ID, true)
	if err != nil {
		return fmt.Errorf("cannot open image %s: %w", f.candidate.handle, err)
	}
	defer s.closeImage(ctx, im)
	sparse, ok := im.(ceph.Sparsifier)
	if !ok {
		return fmt.Errorf("cannot read whether image %s has data: %w", f.candidate.handle, unix.EOPNOTSUPP)
	}
	used, err := usage(sparse, f.info.Size, func() bool { return true })
	if err != nil {
		return fmt.Errorf("cannot read whether image %s has data: %w", f.candidate.handle, err)
	}
	if used > 0 {
		return notCloneError(f, "the source of the request")
	}
	return nil
}
