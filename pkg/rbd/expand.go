package rbd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds the expansion of volumes.

// Expand implements volume.Backend: it opens the image once, grows it and reads its size back. The
// lock of the volume makes a second call wait for the first.
func (b *Backend) Expand(ctx context.Context, id string, target volume.Size) (volume.Volume, error) {
	t, err := volumeTask(id, fmt.Sprintf("expanding the volume to %s", target))
	if err != nil {
		return volume.Volume{}, volume.Wrap(err, "expand volume", id)
	}
	v, err := run(ctx, b, t, func(ctx context.Context, s *session) (volume.Volume, error) {
		im, err := s.resolve(id)
		if err != nil {
			return volume.Volume{}, err
		}
		return s.expand(ctx, im, target)
	})
	return v, volume.Wrap(err, "expand volume", id)
}

// expand grows the image to at least size. The volume that it returns has an id and a size only.
func (s *session) expand(ctx context.Context, t target, size volume.Size) (volume.Volume, error) {
	if t.handle.Snapshot != "" {
		return volume.Volume{}, volume.Errorf(volume.KindPrecondition, "the volume is a snapshot, which cannot grow").
			WithRemedy("restore the snapshot into a larger volume")
	}
	im, err := t.open(false)
	if err != nil {
		return volume.Volume{}, err
	}
	defer s.closeImage(ctx, im)
	info, err := im.Info()
	if err != nil {
		return volume.Volume{}, fmt.Errorf("cannot read image %s: %w", t.handle, err)
	}
	if before := volume.Size(info.Size); before < size {
		if err := t.checkNotCephCSIEncrypted(); err != nil {
			return volume.Volume{}, err
		}
		if err := s.grow(t, im, info, size); err != nil {
			return volume.Volume{}, err
		}
		if info.Size, err = im.Size(); err != nil {
			return volume.Volume{}, fmt.Errorf("cannot read the size of image %s back: %w", t.handle, err)
		}
		if after := volume.Size(info.Size); after < size {
			return volume.Volume{}, volume.Errorf(volume.KindInternal,
				"image %s was reported as grown from %s to %s, but its size is %s", t.handle, before, size, after)
		}
	}
	return volume.Volume{ID: t.id, Size: volume.Size(info.Size)}, nil
}

// grow grows an open image. Kinds: OutOfRange, Precondition.
func (s *session) grow(t target, im ceph.Image, info ceph.ImageInfo, size volume.Size) error {
	if slices.Contains(info.Features, featureMigrating) {
		return volume.Errorf(volume.KindPrecondition, "image %s is being migrated", t.handle).
			WithRemedy(t.migrationRemedy())
	}
	if err := s.checkSpace(t.handle.Location, info.DataPool, size); err != nil {
		return err
	}
	if err := s.checkLock(im, t, info); err != nil {
		return err
	}
	err := s.explainTimeout(im.Grow(uint64(size)), t.handle.Location, info.DataPool, size)
	switch {
	case errors.Is(err, unix.EROFS):
		return volume.Errorf(volume.KindPrecondition,
			"image %s is mapped with the option exclusive, which forbids to expand it while it is in use: %w", t.handle, err).
			WithRemedy("remove exclusive from mapOptions, and restart the pod; Kubernetes then expands the volume")
	case errors.Is(err, unix.EINVAL) && info.IsObjectMapInvalid:
		return volume.Errorf(volume.KindPrecondition,
			"Ceph does not grow image %s from %s to %s: its object map is invalid, because a resize was interrupted: %w",
			t.handle, volume.Size(info.Size), size, err).
			WithRemedy(t.rebuildRemedy())
	case errors.Is(err, unix.EINVAL):
		return volume.Errorf(volume.KindOutOfRange, "Ceph does not grow image %s from %s to %s (features %v): %w",
			t.handle, volume.Size(info.Size), size, info.Features, err).
			WithRemedy("request a smaller size: the feature object-map allows 256,000,000 objects, which are 976 TiB " +
				"with the default object size")
	case volume.IsKind(err, volume.KindOutOfRange):
		return err
	case err != nil:
		return fmt.Errorf("cannot grow image %s from %s to %s: %w", t.handle, volume.Size(info.Size), size, err)
	}
	return nil
}

// spec returns how the program rbd names the image.
func (t target) spec() string { return poolAndNamespace(t.handle.Location) + "/" + t.handle.Image }
