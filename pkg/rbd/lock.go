package rbd

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/attachment"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/volume"
)

// This file keeps librbd from breaking the exclusive lock of a node that is cut off.
//
// librbd changes an image with an object map only while it has the lock. It breaks that of a client
// that has not answered for half a minute. This driver's connections do not fence such a client.
// The kernel of a node that is back then gives up its object map while it still has requests that
// use it, and stops with an assertion (Linux 6.1, __rbd_object_map_index; seen after a cut of 45
// s).

// featureObjectMap is the feature of images whose lock may not be broken.
const featureObjectMap = "object-map"

// checkLock returns an error of kind Unavailable if librbd would have to break the lock of a node
// to change the image. A node that is cut off after the check can still lose the lock.
func (s *session) checkLock(im ceph.Image, t target, info ceph.ImageInfo) error {
	if !slices.Contains(info.Features, featureObjectMap) {
		return nil
	}
	holder, isHeld, err := s.readNodeWithLock(im, t, info.ID)
	if err != nil || !isHeld {
		return err
	}
	quiescer, ok := im.(ceph.Quiescer)
	if !ok {
		return fmt.Errorf("cannot ask the clients of image %s: %w", t.spec(), unix.EOPNOTSUPP)
	}
	silent, err := quiescer.SilentClients(silentTimeout)
	if err != nil {
		return fmt.Errorf("cannot ask the clients of image %s: %w", t.spec(), err)
	}
	if !slices.Contains(silent, holder.Client) {
		// A client that no longer watches is not asked. Its watch can end during the question.
		return checkHolder(im, t.spec(), holder)
	}
	return volume.Errorf(volume.KindUnavailable, "client %s at %s holds the lock of image %s and does not answer "+
		"within %s: nothing was changed, because the loss of the lock could stop its kernel",
		holder.Client, holder.Address, t.spec(), silentTimeout).
		WithRemedy("check the network of that node; " + retryRemedy)
}

// checkHolder returns an error of kind Unavailable unless the client that held the lock of an image
// earlier still watches it: then librbd has not broken its lock. No holder is no error. spec names
// the image.
func checkHolder(im ceph.Image, spec string, holder ceph.Watcher) error {
	if holder.Address == "" {
		return nil
	}
	watchers, err := im.Watchers()
	if err != nil {
		return fmt.Errorf("cannot read the watchers of image %s: %w", spec, err)
	}
	isHolder := func(w ceph.Watcher) bool {
		// A watch that was lost and taken again has another cookie.
		return w.Address == holder.Address && (holder.Cookie == "" || w.Cookie == holder.Cookie)
	}
	if slices.ContainsFunc(watchers, isHolder) {
		return nil
	}
	return volume.Errorf(volume.KindUnavailable, "client %s at %s holds the lock of image %s and does not answer: "+
		"its writes cannot be stopped", holder.Client, holder.Address, spec).
		WithRemedy("check the network of that node; " + retryRemedy)
}

// removeSnapshotOf removes a snapshot of an open image. Kind Unavailable: that of checkLock.
// ENOENT.
func (s *session) removeSnapshotOf(im ceph.Image, t target, name string) error {
	info, err := im.Info()
	if err == nil {
		err = s.checkLock(im, t, info)
	}
	if err != nil {
		return err
	}
	return im.RemoveSnapshot(name)
}

// readNodeWithLock returns the client that holds the exclusive lock of an image that is attached to
// a node. It reports false for a client that no storage daemon serves any more, and for an image
// that is not attached: then the holder is one that has died, and has no writes on their way.
func (s *session) readNodeWithLock(im ceph.Image, t target, imageID string) (ceph.Watcher, bool, error) {
	holder, isHeld, err := im.LockHolder()
	if err != nil {
		return holder, false, fmt.Errorf("cannot read the lock of image %s: %w", t.spec(), err)
	}
	if !isHeld {
		return holder, false, nil
	}
	all, err := readMetadata(t.pool, imageID)
	if err != nil {
		return holder, false, err
	}
	nodes, err := attachment.NodeNames(imageID, all)
	if err != nil || len(nodes) == 0 {
		return holder, false, err
	}
	fenced, err := s.cluster.Blocklist()
	if err != nil {
		return holder, false, fmt.Errorf("cannot list the fenced clients: %w", err)
	}
	if _, isFenced := fenced[holder.Address]; !isFenced {
		return holder, true, nil
	}
	info, err := im.Info()
	if err == nil {
		err = ceph.AwaitMap(s.cluster, t.pool, t.handle.Namespace, info.DataPool)
	}
	if err != nil {
		return holder, false, fmt.Errorf("cannot verify that all storage daemons refuse the fenced client %s of image %s: %w",
			holder.Address, t.spec(), err)
	}
	return holder, false, nil
}
