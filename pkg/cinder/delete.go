package cinder

import (
	"context"
	"fmt"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Delete implements volume.Backend. It succeeds only when Cinder no longer has the volume: after
// accepting a deletion Cinder may fail to delete the volume, or restore its earlier status.
func (b *Backend) Delete(ctx context.Context, id string) error {
	c, err := b.locator.Volume(ctx, id)
	if err == nil {
		err = b.delete(ctx, c, id)
	}
	if err != nil && !volume.IsKind(err, volume.KindNotFound) {
		return volume.Wrap(err, "delete volume", id)
	}
	b.forget(id)
	return nil
}

// delete deletes a volume and waits until it is gone. Kind NotFound: it did not exist before.
func (b *Backend) delete(ctx context.Context, c *cloud.Cloud, id string) error {
	v, err := c.Volume(ctx, id)
	if err != nil {
		return err
	}
	if v, err = b.awaitDeletable(ctx, c, v); err != nil {
		return err
	}
	if err := b.copies.Await(ctx, c, id, "the copy would fail if the volume were deleted now"); err != nil {
		return err
	}
	if v.Status != state.Deleting {
		if err := c.DeleteVolume(ctx, id); err != nil {
			return snapshotsError(ctx, c, v, err)
		}
	}
	left, isGone, err := b.awaitGone(ctx, c, id)
	if err == nil && !isGone && state.IsSettled(left) {
		// The API may answer from a replica that lags.
		if err := operation.Sleep(ctx, confirmDelay); err != nil {
			return err
		}
		left, isGone, err = b.awaitGone(ctx, c, id)
	}
	switch {
	case isGone || err != nil:
		return err
	case left.Status == state.ErrorDeleting:
		return b.failedDeletionError(ctx, c, left)
	}
	return volume.Errorf(volume.KindPrecondition,
		"Cinder did not complete the deletion: the volume has the status %s again; %s",
		left.Status, message.VolumeReason(ctx, b.log, c, left, volume.KindPrecondition).Text).
		WithRemedy("first delete the volumes and snapshots that were created from this volume: " +
			"the storage may still need its data")
}

// awaitDeletable returns the volume when it can be deleted or is being deleted: a volume that is
// not in use may first have to become idle. Kinds: Precondition (the volume is in use), Internal
// (an earlier deletion failed), InProgress (another operation is running).
func (b *Backend) awaitDeletable(ctx context.Context, c *cloud.Cloud, v cloud.Volume) (cloud.Volume, error) {
	if len(v.Attachments) == 0 && v.Status != state.InUse {
		var err error
		if v, err = b.awaitIdle(ctx, c, v); err != nil {
			return v, err
		}
	}
	switch {
	case len(v.Attachments) > 0:
		return v, volume.Errorf(volume.KindPrecondition,
			"the volume is attached to server %s", message.JoinAtMost(state.Servers(v))).
			WithRemedy("delete the pods that use the volume, and wait until it is detached")
	case v.Status == state.InUse:
		return v, volume.Errorf(volume.KindPrecondition, "the volume is in use, but Cinder does not show by which server").
			WithRemedy("check its attachments: openstack volume attachment list --volume-id " + v.ID)
	case v.Status == state.ErrorDeleting:
		return v, b.failedDeletionError(ctx, c, v)
	}
	return v, nil
}

// awaitGone waits until the deletion ends. If isGone is false, left is the volume that Cinder did
// not delete.
func (b *Backend) awaitGone(
	ctx context.Context, c *cloud.Cloud, id string,
) (left cloud.Volume, isGone bool, err error) {
	left, err = b.pollers.Await(ctx, c, id, "delete", state.IsNot(state.Deleting))
	if volume.IsKind(err, volume.KindNotFound) {
		return cloud.Volume{}, true, nil
	}
	return left, false, err
}

func (b *Backend) failedDeletionError(ctx context.Context, c *cloud.Cloud, v cloud.Volume) error {
	return volume.Errorf(volume.KindInternal, "Cinder failed to delete the volume (status %s): %s",
		v.Status, message.VolumeReason(ctx, b.log, c, v, volume.KindInternal).Text).
		WithRemedy("ask the cloud operator to find the cause, then to run: openstack volume delete --force " + v.ID)
}

// snapshotsError returns an error that names the snapshots of the volume if cause, with which
// Cinder refused the deletion, can be due to them; else it returns cause.
func snapshotsError(ctx context.Context, c *cloud.Cloud, v cloud.Volume, cause error) error {
	if kind := volume.KindOf(cause); kind != volume.KindPrecondition && kind != volume.KindInvalid {
		return cause
	}
	snapshots, next, err := c.Snapshots(ctx, cloud.SnapshotPage{VolumeID: v.ID, Limit: 10})
	if err != nil || len(snapshots) == 0 {
		return cause
	}
	names := make([]string, 0, len(snapshots))
	for _, s := range snapshots {
		names = append(names, fmt.Sprintf("%s (%s)", s.Name, s.ID))
	}
	text := message.JoinAtMost(names)
	if next != "" {
		text += " and others"
	}
	return volume.Errorf(volume.KindPrecondition, "the volume has the snapshots %s: %w", text, cause).
		WithRemedy("delete the snapshots first")
}
