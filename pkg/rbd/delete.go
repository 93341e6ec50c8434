package rbd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/attachment"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/header"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds the deletion of volumes.

// Delete implements volume.Backend. It removes the image; an image that has snapshots or clones
// becomes a tombstone (tombstone.go). It succeeds only after reading that no image has the name.
func (b *Backend) Delete(ctx context.Context, id string) error {
	t, err := volumeTask(id, "deleting the volume")
	if volume.IsKind(err, volume.KindNotFound) {
		return nil // no volume has such a handle
	}
	if err == nil {
		_, err = run(ctx, b, t, func(ctx context.Context, s *session) (struct{}, error) {
			return struct{}{}, s.deleteVolume(ctx, id)
		})
	}
	return volume.Wrap(err, "delete volume", id)
}

func (s *session) deleteVolume(ctx context.Context, id string) error {
	t, err := s.resolve(id)
	if volume.IsKind(err, volume.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if t.handle.Snapshot != "" {
		return volume.Errorf(volume.KindPrecondition,
			"the volume is the snapshot %s of image %s, which the driver did not make", t.handle.Snapshot, t.spec()).
			WithRemedy("set persistentVolumeReclaimPolicy of the PersistentVolume to Retain, then delete the PersistentVolume")
	}
	h, isCephCSI := rbdcsi.ParseCephCSIHandle(id)
	if !isCephCSI {
		return s.deleteTarget(ctx, t)
	}
	return s.deleteCephCSIVolume(ctx, t, h)
}

// deleteTarget removes the image, or makes it a tombstone. Temporary snapshots are removed in the
// first round; more rounds are needed only if other programs use the image meanwhile.
func (s *session) deleteTarget(ctx context.Context, t target) error {
	for range maxDeleteRounds {
		isDone, err := s.deleteImage(ctx, t)
		if err != nil || isDone {
			return err
		}
	}
	return volume.Errorf(volume.KindUnavailable, "image %s is being changed by other programs", t.spec()).
		WithRemedy(retryRemedy)
}

const maxDeleteRounds = 4

// deleteImage removes the image or makes it a tombstone. It reports false if that has to be
// repeated.
func (s *session) deleteImage(ctx context.Context, t target) (isDone bool, err error) {
	object := removalByName + t.handle.Image
	id, err := t.pool.ImageID(t.handle.Image)
	if isMissing(err) {
		if err := s.finishInterrupted(ctx, t.pool, t.handle.Location, t.handle.Image); err != nil {
			return false, err
		}
		return true, s.finishRemoval(ctx, t.pool, t.handle.Location, object)
	}
	if err != nil {
		return false, fmt.Errorf("cannot read the id of image %s: %w", t.handle, err)
	}
	if err := t.checkDetached(id); err != nil {
		return false, err
	}
	r, err := s.readRelatives(ctx, t.pool, id)
	switch {
	case isMissing(err): // an interrupted removal has left the name only
	case err != nil:
		return false, err
	case len(r.snapshots) > 0:
		return s.retire(ctx, t, id, r.snapshots)
	case r.hasParent:
		if err := s.recordParent(ctx, t.pool, t.handle.Location, object, r.parent); err != nil {
			return false, err
		}
	}
	return s.removeImage(ctx, t, id, object, r.hasParent)
}

// checkDetached returns an error of kind Precondition if the image is attached to a node. The
// watchers do not tell: a node that reads only, or that is cut off for 30 s, is none of them.
func (t target) checkDetached(imageID string) error {
	all, err := readMetadata(t.pool, imageID)
	if err != nil {
		return err
	}
	nodes, err := attachment.NodeNames(imageID, all)
	if err != nil || len(nodes) == 0 {
		return err
	}
	return volume.Errorf(volume.KindPrecondition, "image %s is attached to the nodes %s",
		t.spec(), strings.Join(nodes, ", ")).
		WithRemedy("delete the pods that use the volume; if no VolumeAttachment names it any more " +
			"(kubectl get volumeattachments), and it is not mapped on the nodes: rbd image-meta list " + t.spec() +
			"; rbd image-meta remove " + t.spec() + " " + attachment.Key(nodes[0]))
}

// removeImage removes the image, or what is left of it. The object is that of recordParent.
func (s *session) removeImage(
	ctx context.Context, t target, id, object string, hasParent bool,
) (isDone bool, err error) {
	err = t.pool.Remove(t.handle.Image)
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.ENOTEMPTY):
		if hasParent {
			if err := s.dropRemoval(t.pool, object); err != nil {
				return false, err
			}
		}
		return false, s.notRemovableError(ctx, t, id, err)
	case err != nil && !isMissing(err):
		return false, fmt.Errorf("cannot remove image %s: %w", t.handle, err)
	}
	if err := t.checkGone(); err != nil {
		return false, err
	}
	return true, s.finishRemoval(ctx, t.pool, t.handle.Location, object)
}

// checkGone returns an error unless no image has the name.
func (t target) checkGone() error {
	switch id, err := t.pool.ImageID(t.handle.Image); {
	case isMissing(err):
		return nil
	case err != nil:
		return fmt.Errorf("cannot read whether image %s is gone: %w", t.handle, err)
	default:
		return volume.Errorf(volume.KindInternal,
			"Ceph reported image %s as removed, but it still exists (id %s)", t.spec(), id)
	}
}

// retire makes an image with snapshots a tombstone. It reports false if the image had temporary
// snapshots only, and has none now. Kind Precondition: the image is in use.
func (s *session) retire(ctx context.Context, t target, id string, snapshots []ceph.Snapshot) (isDone bool, err error) {
	watchers, err := s.readWatchers(ctx, t.pool, id)
	if isMissing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if len(watchers) > 0 {
		return false, inUseError(t, watchers)
	}
	// The lock of the volume is held: calls that have died have left the temporary snapshots.
	isOnlyTemporary := true
	for _, snapshot := range snapshots {
		if !isTemporary(snapshot) {
			isOnlyTemporary = false
			continue
		}
		if err := s.removeSnapshotByName(ctx, t, id, snapshot.Name); err != nil {
			return false, err
		}
	}
	if isOnlyTemporary {
		return false, nil
	}
	if err := t.rename(id); err != nil && !isMissing(err) {
		return false, err
	}
	if err := t.checkGone(); err != nil {
		return false, err
	}
	if err := s.finishRemoval(ctx, t.pool, t.handle.Location, removalByName+t.handle.Image); err != nil {
		return false, err
	}
	// The last snapshot may have been removed since it was read.
	return true, s.removeUnused(ctx, t.handle.Location, id)
}

// rename gives the image the name of a tombstone. ENOENT.
func (t target) rename(id string) error {
	name := tombstoneName(t.handle.Image, id)
	err := t.pool.Rename(t.handle.Image, name)
	if errors.Is(err, unix.EEXIST) {
		// librbd makes the object with the id under the new name, changes the directory, and removes the
		// object under the old name. No other image can have this new name: it has the id.
		err = t.finishRename(id, name)
	}
	if err != nil {
		return fmt.Errorf("cannot rename image %s to %s: %w", t.handle, name, err)
	}
	return nil
}

// finishRename completes a rename that was interrupted.
func (t target) finishRename(id, name string) error {
	present, err := imageNameOf(t.pool, id)
	switch {
	case err != nil:
		return err
	case present == name:
		return t.pool.RemoveObject(header.IDObject(t.handle.Image))
	}
	if err := t.pool.RemoveObject(header.IDObject(name)); err != nil && !isMissing(err) {
		return err
	}
	return t.pool.Rename(t.handle.Image, name)
}

// inUseError is the error for an image that clients have open.
func inUseError(t target, watchers []ceph.Watcher) error {
	return volume.Errorf(volume.KindPrecondition, "image %s is in use by %s", t.spec(), watcherText(watchers)).
		WithRemedy("delete the pods that use the volume; if none does, unmap the image on that client: rbd device unmap " +
			t.spec() + "; if the client is dead, it disappears 30 s after its end (rbd status " + t.spec() + ")")
}

// notRemovableError returns why Ceph has not removed an image; nil: what kept it is gone, or it has
// snapshots meanwhile.
func (s *session) notRemovableError(ctx context.Context, t target, id string, cause error) error {
	watchers, err := s.readWatchers(ctx, t.pool, id)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	r, err := s.readRelatives(ctx, t.pool, id)
	switch {
	case isMissing(err):
		return nil
	case err != nil:
		return err
	case len(watchers) > 0:
		return inUseError(t, watchers)
	case len(r.snapshots) > 0 || errors.Is(cause, unix.EBUSY):
		return nil
	}
	return volume.Errorf(volume.KindPrecondition, "Ceph does not remove image %s: it is in a group: %w", t.spec(), cause).
		WithRemedy("remove it from the group: rbd group list " + poolAndNamespace(t.handle.Location) +
			"; rbd group image remove GROUP " + t.spec())
}
