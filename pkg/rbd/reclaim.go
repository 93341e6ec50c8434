package rbd

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/volume"
)

// This file gives the space of blocks that hold zeros back to the pool, of images that nobody uses.

// ReclaimSpace implements volume.SpaceReclaimer. librbd reads the whole image for it. Kind
// Unsupported: the volume is a snapshot or encrypted, or its data pool may be erasure coded.
func (b *Backend) ReclaimSpace(ctx context.Context, id string) (volume.Reclaimed, error) {
	t, err := volumeTask(id, "reclaiming space of the volume")
	if err != nil {
		return volume.Reclaimed{}, volume.Wrap(err, "reclaim space of volume", id)
	}
	t.isLong = true
	reclaimed, err := run(ctx, b, t, func(inner context.Context, s *session) (volume.Reclaimed, error) {
		im, err := s.resolve(id)
		if err != nil {
			return volume.Reclaimed{}, err
		}
		return s.reclaim(ctx, inner, im)
	})
	return reclaimed, volume.Wrap(err, "reclaim space of volume", id)
}

// reclaim ends early when outer ends; ctx does not end.
func (s *session) reclaim(outer, ctx context.Context, t target) (volume.Reclaimed, error) {
	if t.handle.Snapshot != "" {
		return volume.Reclaimed{}, volume.Errorf(volume.KindUnsupported,
			"the volume is the snapshot %s@%s, which does not change", t.spec(), t.handle.Snapshot)
	}
	readOnly, err := t.open(true)
	if err != nil {
		return volume.Reclaimed{}, err
	}
	defer s.closeImage(ctx, readOnly)
	info, err := readOnly.Info()
	if err != nil {
		return volume.Reclaimed{}, fmt.Errorf("cannot read image %s: %w", t.handle, err)
	}
	isInUse, err := s.isInUse(ctx, t, readOnly, info)
	if err != nil || isInUse {
		return volume.Reclaimed{IsInUse: isInUse}, err
	}
	if err := s.checkReclaimable(t, info); err != nil {
		return volume.Reclaimed{}, err
	}
	im, err := t.open(false)
	if err != nil {
		return volume.Reclaimed{}, err
	}
	defer s.closeImage(ctx, im)
	return s.sparsify(outer, ctx, t, im)
}

// isInUse reports whether the image is attached to a node or a client has it open for writing.
func (s *session) isInUse(ctx context.Context, t target, im ceph.Image, info ceph.ImageInfo) (bool, error) {
	_, _, nodes, err := t.readMetadata(info.ID)
	if err != nil {
		return false, err
	}
	watchers, err := im.Watchers()
	if err != nil {
		return false, fmt.Errorf("cannot read the watchers of image %s: %w", t.handle, err)
	}
	if len(nodes) == 0 && len(watchers) == 0 {
		return false, nil
	}
	s.log.InfoContext(ctx, "the image is in use, so its zeros are not deallocated: the node discards what is free",
		"volume", t.id, "nodes", nodes, "watchers", len(watchers))
	return true, nil
}

// checkReclaimable returns an error of kind Unsupported for an image from which nothing can be
// gained, or whose pool may not complete the work.
func (s *session) checkReclaimable(t target, info ceph.ImageInfo) error {
	all, err := readMetadata(t.pool, info.ID)
	if err != nil {
		return err
	}
	record, _, err := t.readRecord(info.ID)
	switch {
	case err != nil:
		return err
	case record.Encrypted || checkNotEncrypted(all, t.spec()) != nil:
		return volume.Errorf(volume.KindUnsupported, "image %s is encrypted, so that no block of it holds zeros", t.spec()).
			WithRemedy("reclaim its space while a pod uses it")
	case info.DataPool != "":
		// An erasure-coded pool of Ceph 16.2 never answers the requests of librbd (compare and
		// delete), and everything behind them waits until the OSD restarts (measured).
		return volume.Errorf(volume.KindUnsupported,
			"image %s has the data pool %s: if that is erasure coded, Ceph does not complete the operation",
			t.spec(), info.DataPool).
			WithRemedy("reclaim its space while a pod uses it")
	}
	return nil
}

// useInterval is how often the work looks whether a node has begun to use the image: librbd gives
// the lock of an image to nobody before it has ended its work, and the node would wait.
const useInterval = 2 * time.Second

// sparsify deallocates the zeros of an image that is open for writing, and reads its usage before
// and after.
func (s *session) sparsify(
	outer, ctx context.Context, t target, im ceph.Image,
) (out volume.Reclaimed, err error) {
	sparse, ok := im.(ceph.Sparsifier)
	if !ok {
		return out, volume.Errorf(volume.KindUnsupported, "this library of Ceph cannot reclaim space")
	}
	info, err := im.Info()
	if err != nil {
		return out, fmt.Errorf("cannot read image %s: %w", t.handle, err)
	}
	isUsed, stop := s.watchUse(ctx, t, im, info)
	defer stop()
	goOn := func() bool { return outer.Err() == nil && !s.locks.HasWaiters(t.id) && !isUsed() }
	if out.Before, err = usage(sparse, info.Size, goOn); err == nil {
		err = sparse.Sparsify(goOn)
	}
	if err == nil {
		out.After, err = usage(sparse, info.Size, goOn)
	}
	switch {
	case errors.Is(err, unix.ECANCELED):
		return out, endedError(outer, t)
	case errors.Is(err, unix.EROFS):
		return out, volume.Errorf(volume.KindInProgress, "a client has begun to use image %s: %w", t.spec(), err).
			WithRemedy("reclaim its space while the pod uses it")
	case err != nil:
		return out, fmt.Errorf("cannot deallocate the zeros of image %s: %w", t.handle, err)
	}
	return out, nil
}

// watchUse looks every useInterval whether the image is in use, until stop is called, which waits
// for the last look. An error counts as use.
func (s *session) watchUse(
	ctx context.Context, t target, im ceph.Image, info ceph.ImageInfo,
) (isUsed func() bool, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var used atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for operation.Sleep(ctx, useInterval) == nil && !used.Load() {
			isInUse, err := s.isInUse(ctx, t, im, info)
			used.Store(isInUse || err != nil)
		}
	}()
	return used.Load, func() { cancel(); <-ended }
}

// endedError is the error for work that ended before all objects of the image were read.
func endedError(outer context.Context, t target) error {
	if err := outer.Err(); err != nil {
		return volume.Errorf(volume.KindOf(err), "the zeros of image %s were deallocated in part only: %w",
			t.spec(), context.Cause(outer)).
			WithRemedy("allow more time (timeout in the spec of the ReclaimSpaceJob): each call begins at the first object")
	}
	return volume.Errorf(volume.KindInProgress,
		"the zeros of image %s were deallocated in part only, because another operation on the volume has begun, "+
			"or a node uses it", t.spec()).
		WithRemedy("repeat it when the volume is not in use")
}

// usage returns what an image of that size occupies, in bytes. It reads in windows, so that it ends
// with ECANCELED when goOn returns false.
func usage(im ceph.Sparsifier, size uint64, goOn func() bool) (volume.Size, error) {
	var used volume.Size
	for offset := uint64(0); offset < size; offset += uint64(diffWindow) {
		if !goOn() {
			return 0, unix.ECANCELED
		}
		n, err := im.Usage(offset, min(uint64(diffWindow), size-offset))
		if err != nil {
			return 0, err
		}
		used += volume.Size(n) //nolint:gosec // at most the size of the image
	}
	return used, nil
}
