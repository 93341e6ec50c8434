package rbd

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/header"
)

// This file reads names, parents and snapshots of images by their ids, in one operation each
// (package header). A name can change after it was read: the caller checks by ids what it has done
// with the name.

// isMissing reports whether Ceph has said that an object or an image does not exist.
func isMissing(err error) bool { return errors.Is(err, unix.ENOENT) }

// imageNameOf returns the name of the image of that id. ENOENT: there is none, or it is in the
// trash.
func imageNameOf(pool ceph.Pool, imageID string) (string, error) {
	name, err := readDirectory(pool, header.NameKey(imageID))
	if err != nil {
		return "", fmt.Errorf("cannot read the name of image id %s: %w", imageID, err)
	}
	return name, nil
}

// removingNameOf returns the former name of the image of that id if it is in the trash because of a
// removal that was interrupted. ENOENT: it is not.
func removingNameOf(pool ceph.Pool, imageID string) (string, error) {
	key := header.TrashKey(imageID)
	values, err := pool.OmapValues(header.Trash, key)
	if err != nil {
		return "", fmt.Errorf("cannot read the trash for image id %s: %w", imageID, err)
	}
	if value, ok := values[key]; ok {
		trashed, err := header.ReadTrashed(value)
		if err != nil || trashed.IsRemoving {
			return trashed.Name, err
		}
	}
	return "", fmt.Errorf("no removal of image id %s was begun: %w", imageID, unix.ENOENT)
}

// readDirectory reads a name or an id from the pool's directory of images. ENOENT: it has no such
// key.
func readDirectory(pool ceph.Pool, key string) (string, error) {
	values, err := pool.OmapValues(header.Directory, key)
	if err != nil {
		return "", err
	}
	text, err := header.Text(values[key])
	if values[key] == "" || err == nil && text == "" {
		return "", fmt.Errorf("object %s has no %s: %w", header.Directory, key, unix.ENOENT)
	}
	return text, err
}

// snapshotOf returns a snapshot by its id, also one that waits for its clones. ENOENT: there is no
// such image or snapshot.
func (s *session) snapshotOf(ctx context.Context, pool ceph.Pool, imageID string, id uint64) (ceph.Snapshot, error) {
	key := header.SnapshotKey(id)
	values, err := pool.OmapValues(header.Object(imageID), key)
	if err != nil {
		return ceph.Snapshot{}, fmt.Errorf("cannot read snapshot %d of image id %s: %w", id, imageID, err)
	}
	value, ok := values[key]
	if !ok {
		return ceph.Snapshot{}, fmt.Errorf("image id %s has no snapshot %d: %w", imageID, id, unix.ENOENT)
	}
	snapshot, err := header.Snapshot(value)
	if !errors.Is(err, header.ErrFormat) {
		return snapshot, err
	}
	all, err := s.openSnapshots(ctx, pool, imageID)
	for _, snapshot := range all {
		if snapshot.ID == id {
			return snapshot, nil
		}
	}
	return ceph.Snapshot{}, errors.Join(err, fmt.Errorf("image id %s has no snapshot %d: %w", imageID, id, unix.ENOENT))
}

// relatives are the parent and the snapshots of an image.
type relatives struct {
	snapshots []ceph.Snapshot // oldest first, also those that wait for their clones
	parent    ceph.ImageName  // if hasParent; without names
	hasParent bool
}

// readRelatives reads the parent and the snapshots of the image of that id. ENOENT.
func (s *session) readRelatives(ctx context.Context, pool ceph.Pool, imageID string) (relatives, error) {
	var r relatives
	values, err := pool.OmapValues(header.Object(imageID))
	if err != nil {
		return r, fmt.Errorf("cannot read the header of image id %s: %w", imageID, err)
	}
	if r.snapshots, err = header.Snapshots(values); errors.Is(err, header.ErrFormat) {
		r.snapshots, err = s.openSnapshots(ctx, pool, imageID)
	}
	if err != nil {
		return r, err
	}
	parent, found, err := header.ReadParent(values)
	if errors.Is(err, header.ErrFormat) {
		r.parent, r.hasParent, err = s.openParent(ctx, pool, imageID)
		return r, err
	}
	if err != nil || !found {
		return r, err
	}
	r.hasParent = true
	r.parent = ceph.ImageName{Namespace: parent.Namespace, ID: parent.ImageID, SnapshotID: parent.SnapshotID}
	if r.parent.Pool, err = s.cluster.PoolName(parent.PoolID); err != nil {
		return r, fmt.Errorf("cannot read the name of pool %d: %w", parent.PoolID, err)
	}
	return r, nil
}

// nameParent adds the present names of the image and the snapshot; they are empty for an image in
// the trash.
func (s *session) nameParent(ctx context.Context, parent *ceph.ImageName) error {
	pool, err := s.cluster.Pool(parent.Pool, parent.Namespace)
	if err != nil {
		return fmt.Errorf("cannot open pool %s: %w", parent.Pool, err)
	}
	if parent.Image, err = imageNameOf(pool, parent.ID); isMissing(err) {
		parent.IsInTrash = true
		return nil
	}
	if err != nil {
		return err
	}
	snapshot, err := s.snapshotOf(ctx, pool, parent.ID, parent.SnapshotID)
	if isMissing(err) {
		return nil
	}
	parent.Snapshot = snapshot.Name
	return err
}

// openSnapshots reads the snapshots through librbd. ENOENT.
func (s *session) openSnapshots(ctx context.Context, pool ceph.Pool, imageID string) ([]ceph.Snapshot, error) {
	im, err := pool.OpenID(imageID, true)
	if err != nil {
		return nil, fmt.Errorf("cannot open image id %s: %w", imageID, err)
	}
	defer s.closeImage(ctx, im)
	all, err := im.Snapshots()
	if err != nil {
		return nil, fmt.Errorf("cannot read the snapshots of image id %s: %w", imageID, err)
	}
	return all, nil
}

// openParent reads the parent through librbd. ENOENT.
func (s *session) openParent(ctx context.Context, pool ceph.Pool, imageID string) (ceph.ImageName, bool, error) {
	im, err := pool.OpenID(imageID, true)
	if err != nil {
		return ceph.ImageName{}, false, fmt.Errorf("cannot open image id %s: %w", imageID, err)
	}
	defer s.closeImage(ctx, im)
	parent, found, err := im.Parent()
	if err != nil {
		return ceph.ImageName{}, false, fmt.Errorf("cannot read the parent of image id %s: %w", imageID, err)
	}
	return parent, found, nil
}

// readWatchers returns the clients that have the image of that id open for writing. ENOENT.
func (s *session) readWatchers(ctx context.Context, pool ceph.Pool, imageID string) ([]ceph.Watcher, error) {
	im, err := pool.OpenID(imageID, true)
	if err != nil {
		return nil, fmt.Errorf("cannot open image id %s: %w", imageID, err)
	}
	defer s.closeImage(ctx, im)
	watchers, err := im.Watchers()
	if err != nil {
		return nil, fmt.Errorf("cannot read the watchers of image id %s: %w", imageID, err)
	}
	return watchers, nil
}
