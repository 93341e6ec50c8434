package rbd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds tombstones: images of deleted volumes that still have snapshots or clones. They
// have another name, so that they are no volumes any more, and are removed with their last
// snapshot.
//
// A tombstone is recognized by its name alone, because a rename is one step: the name has the id of
// the image, which no other image has. An administrator who renames it back has the volume again.

// tombstoneMark is between the former name and the id in the name of a tombstone.
const tombstoneMark = ".growvol-deleted."

func tombstoneName(image, imageID string) string { return image + tombstoneMark + imageID }

// splitTombstone returns the former name and the id in the name of a tombstone; false: it is no
// such name. The image is a tombstone only if the id is its own.
func splitTombstone(name string) (image, imageID string, ok bool) {
	i := strings.LastIndex(name, tombstoneMark)
	if i <= 0 {
		return name, "", false
	}
	return name[:i], name[i+len(tombstoneMark):], true
}

// isTombstone reports whether the image of that name and id is a tombstone.
func isTombstone(name, imageID string) bool {
	_, id, ok := splitTombstone(name)
	return ok && id == imageID
}

// removal is the content of the RADOS object that is written before a clone is removed, and removed
// after its parent was checked: by it, a repeated deletion finds the parent although the clone is
// gone. One is also written before what an interrupted creation has left is removed: a new image
// can have the name when that removal is interrupted, too.
type removal struct {
	Pool      string `json:"pool,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	ImageID   string `json:"imageID,omitempty"` // of the parent; empty: none
	// IsDiscarded: what an interrupted creation had left under the name of the volume was removed.
	IsDiscarded bool `json:"isDiscarded,omitempty"`
}

// Names of the objects. A volume is known by its name when its deletion is repeated, a tombstone by
// the id in the handles of its snapshots.
const (
	removalPrefix = "growvol.removal."
	removalByID   = removalPrefix + "id."
	removalByName = removalPrefix + "name."
)

// recordParent writes the object for an image that will be removed. An object that an earlier
// deletion has left is finished first: it may name the parent of an earlier image of that name.
func (s *session) recordParent(
	ctx context.Context, pool ceph.Pool, at rbdcsi.Location, object string, parent ceph.ImageName,
) error {
	return s.recordRemoval(ctx, pool, at, object,
		removal{Pool: parent.Pool, Namespace: parent.Namespace, ImageID: parent.ID})
}

// recordRemoval writes the object. It finishes what an object that exists says of a parent, and
// keeps what it says of interrupted creations.
func (s *session) recordRemoval(
	ctx context.Context, pool ceph.Pool, at rbdcsi.Location, object string, r removal,
) error {
	content, err := json.Marshal(r)
	if err != nil {
		return err
	}
	err = pool.ForceObject(object, content)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	old, err := readRemoval(pool, at, object)
	if err == nil {
		err = s.removeParent(ctx, at, old)
	}
	if err == nil || isMissing(err) {
		err = s.dropRemoval(pool, object)
	}
	if err != nil {
		return err
	}
	r.IsDiscarded = r.IsDiscarded || old.IsDiscarded
	if content, err = json.Marshal(r); err != nil {
		return err
	}
	return pool.ForceObject(object, content)
}

// dropRemoval removes the object of an image that was not removed after all.
func (s *session) dropRemoval(pool ceph.Pool, object string) error {
	if err := pool.RemoveObject(object); err != nil && !isMissing(err) {
		return fmt.Errorf("cannot remove the object %s: %w", object, err)
	}
	return nil
}

// finishRemoval removes the parent that the object names if it is a tombstone without snapshots,
// and what an interrupted removal has left of earlier images of the name, and then the object. It
// does nothing if there is no such object. No image may have the name of the object.
func (s *session) finishRemoval(ctx context.Context, pool ceph.Pool, at rbdcsi.Location, object string) error {
	r, err := readRemoval(pool, at, object)
	if isMissing(err) {
		return nil
	}
	if err == nil {
		err = s.removeParent(ctx, at, r)
	}
	if err == nil && r.IsDiscarded {
		err = s.finishInterrupted(ctx, pool, at, strings.TrimPrefix(object, removalByName))
	}
	if err != nil {
		return err
	}
	return s.dropRemoval(pool, object)
}

// readRemoval reads the object. ENOENT.
func readRemoval(pool ceph.Pool, at rbdcsi.Location, object string) (removal, error) {
	var r removal
	content, err := pool.ReadObject(object)
	if err != nil {
		return r, fmt.Errorf("cannot read the object %s: %w", object, err)
	}
	if err := json.Unmarshal(content, &r); err != nil {
		return r, volume.Errorf(volume.KindInternal, "the object %s of pool %s cannot be decoded: %w",
			object, poolAndNamespace(at), err).
			WithRemedy("remove it: rados -p " + at.Pool + " rm " + object)
	}
	return r, nil
}

// removeParent removes the parent of a removed clone if it is a tombstone without snapshots.
func (s *session) removeParent(ctx context.Context, at rbdcsi.Location, r removal) error {
	if r.ImageID == "" {
		return nil
	}
	return s.removeUnused(ctx, rbdcsi.Location{Cluster: at.Cluster, Pool: r.Pool, Namespace: r.Namespace}, r.ImageID)
}

// removeUnused removes the image of that id if it is a tombstone without snapshots, and then does
// the same for its parent. Kind Unavailable: the tombstone is in use.
func (s *session) removeUnused(ctx context.Context, at rbdcsi.Location, imageID string) error {
	pool, err := s.pool(at)
	if err == nil {
		err = s.removeTombstone(ctx, pool, at, imageID)
	}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || pool == nil && isMissing(err) {
		return nil // a pool that this user cannot write to has no tombstone of this driver
	}
	return err
}

func (s *session) removeTombstone(ctx context.Context, pool ceph.Pool, at rbdcsi.Location, imageID string) error {
	object := removalByID + imageID
	name, err := imageNameOf(pool, imageID)
	if isMissing(err) {
		name, err = removingNameOf(pool, imageID)
	}
	switch {
	case isMissing(err):
		return s.removeDiscarded(ctx, pool, at, imageID)
	case err != nil:
		return err
	case !isTombstone(name, imageID):
		return nil
	}
	r, err := s.readRelatives(ctx, pool, imageID)
	switch {
	case err != nil && !isMissing(err):
		return err
	case len(r.snapshots) > 0:
		isRemovable, err := s.removeLeftSnapshots(ctx, pool, at, imageID, name, r.snapshots)
		if err != nil || !isRemovable {
			return err
		}
	}
	if r.hasParent {
		if err := s.recordParent(ctx, pool, at, object, r.parent); err != nil {
			return err
		}
	}
	err = pool.Remove(name)
	switch {
	case errors.Is(err, unix.ENOTEMPTY):
		return s.dropRemoval(pool, object) // it was cloned meanwhile
	case errors.Is(err, unix.EBUSY):
		return s.tombstoneInUseError(ctx, pool, at, name, imageID)
	case err != nil && !isMissing(err):
		return fmt.Errorf("cannot remove image %s: %w", name, err)
	}
	return s.finishTombstone(ctx, pool, at, imageID, name)
}

// finishTombstone finishes the removal of a tombstone, of which Ceph can have left the name.
func (s *session) finishTombstone(
	ctx context.Context, pool ceph.Pool, at rbdcsi.Location, imageID, name string,
) error {
	if _, err := imageNameOf(pool, imageID); !isMissing(err) {
		if err != nil {
			return err
		}
		if err := s.finishInterrupted(ctx, pool, at, name); err != nil {
			return err
		}
	}
	return s.finishRemoval(ctx, pool, at, removalByID+imageID)
}

// removeLeftSnapshots removes the snapshots of a tombstone that were removed and have no clones any
// more. Ceph removes them with their last clone, but does not report it if that fails, as when a
// client that was killed has the lock of the tombstone. It reports whether no snapshot is left.
func (s *session) removeLeftSnapshots(
	ctx context.Context, pool ceph.Pool, at rbdcsi.Location, imageID, name string, snapshots []ceph.Snapshot,
) (isRemovable bool, err error) {
	if slices.ContainsFunc(snapshots, func(s ceph.Snapshot) bool { return !s.IsRemoved }) {
		return false, nil
	}
	im, err := pool.OpenID(imageID, true)
	if err != nil {
		return isMissing(err), ignoreMissing(err)
	}
	defer s.closeImage(ctx, im)
	children, err := im.Children()
	if err != nil || len(children) > 0 {
		return false, err
	}
	for _, snapshot := range snapshots {
		err := im.RemoveSnapshotByID(snapshot.ID)
		if errors.Is(err, unix.EBUSY) {
			return false, s.tombstoneInUseError(ctx, pool, at, name, imageID)
		}
		if err := ignoreMissing(err); err != nil {
			return false, fmt.Errorf("cannot remove snapshot %d of image id %s: %w", snapshot.ID, imageID, err)
		}
	}
	return true, nil
}

// ignoreMissing returns nil if err says that an object or an image does not exist.
func ignoreMissing(err error) error {
	if isMissing(err) {
		return nil
	}
	return err
}

func (s *session) tombstoneInUseError(
	ctx context.Context, pool ceph.Pool, at rbdcsi.Location, name, imageID string,
) error {
	watchers, err := s.readWatchers(ctx, pool, imageID)
	if err != nil && !isMissing(err) {
		return err
	}
	return volume.Errorf(volume.KindUnavailable,
		"image %s of pool %s, which is no longer needed, is in use by %s", name, poolAndNamespace(at), watcherText(watchers)).
		WithRemedy(retryRemedy + "; if it lasts, unmap the image on that client")
}

// watcherText names watchers for a message.
func watcherText(watchers []ceph.Watcher) string {
	var all []string
	for _, w := range watchers {
		all = append(all, w.Address+" ("+w.Client+")")
	}
	return strings.Join(all, ", ")
}
