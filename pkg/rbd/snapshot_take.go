package rbd

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/volume"
)

// This file takes the snapshot of one image, unless a node that is cut off could still write to it.
//
// Before librbd takes a snapshot, it takes the exclusive lock, and breaks that of a node that has
// not answered for half a minute. This driver's connections do not fence such a node: it may only
// be away for a moment. Its last writes can then arrive after the snapshot was taken, with the list
// of snapshots from before, and change the content of the snapshot and of what was cloned from it.

// takeImageSnapshot takes a snapshot of an image that is open for writing. Kind Unavailable: a node
// that has the image attached holds the exclusive lock, does not answer, and is not fenced. EEXIST,
// EROFS, EDQUOT.
func (s *session) takeImageSnapshot(ctx context.Context, im ceph.Image, t target, imageID, name string) error {
	holder, isHeld, err := s.readNodeWithLock(im, t, imageID)
	if err != nil {
		return err
	}
	if !isHeld {
		return im.CreateSnapshot(name)
	}
	reader, err := t.pool.OpenID(imageID, true)
	if err != nil {
		return fmt.Errorf("cannot open image %s: %w", t.handle, err)
	}
	defer s.closeImage(ctx, reader)
	check := func() error { return checkHolder(reader, t.spec(), holder) }
	if err := check(); err != nil {
		return err
	}
	quiescer, ok := reader.(ceph.Quiescer)
	if !ok {
		return fmt.Errorf("cannot take a snapshot of image %s while it is in use: %w", t.spec(), unix.EOPNOTSUPP)
	}
	// The holder may be cut off while librbd waits for the lock.
	err = quiescer.CreateQuiescedSnapshot(name, check)
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	// A holder that uses librbd, as QEMU does, takes the snapshot itself when it is requested to.
	r, errRead := s.readRelatives(ctx, t.pool, imageID)
	if _, isTaken := findSnapshot(r.snapshots, name); errRead == nil && isTaken {
		return nil
	}
	return volume.Errorf(volume.KindUnavailable, "client %s at %s has not given the lock of image %s: %w",
		holder.Client, holder.Address, t.spec(), volume.Join(err, errRead)).WithRemedy(retryRemedy)
}
