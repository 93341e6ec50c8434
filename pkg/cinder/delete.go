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

// Delete implements volume.Backend. Cinder accepts a deletion and carries it out later, fails to,
// or takes it back. So Delete succeeds only when Cinder does not know the volume any more.
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

// delete deletes a volume and waits until it is gone. Kind NotFound: it was gone before.
func (b *Backend) delete(ctx context.Context, c *cloud.Cloud, id string) error {
	v, err := c.Volume(ctx, id)
	if err != nil {
		return err
	}
	if v, err = b.awaitDeletable(ctx, c, v); err != nil {
		return err
	}
	if err := b.copies.Await(ctx, c, id, "fail if the volume were deleted now"); err != nil {
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
		"Cinder accepted the deletion, but took it back: the volume is %s again; %s",
		left.Status, b.reasons.OfVolume(ctx, c, left, volume.KindPrecondition).Text).
		WithRemedy("first delete the volumes and snapshots that were made from it: the storage may still need its data")
}

// awaitDeletable waits until Cinder does nothing with the volume. Kinds: Precondition (it is in
// use), Internal (Cinder failed to delete it before).
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
			WithRemedy("delete the pods that use it, and wait until it is detached")
	case v.Status == state.InUse:
		return v, volume.Errorf(volume.KindPrecondition, "the volume is in use, but Cinder does not show by which server").
			WithRemedy("check its attachments: openstack volume attachment list --volume-id " + v.ID)
	case v.Status == state.ErrorDeleting:
		return v, b.failedDeletionError(ctx, c, v)
	}
	return v, nil
}

// awaitGone waits until Cinder does not know the volume any more. If isGone is false, left is the
// volume whose deletion failed or was taken back.
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
	return volume.Errorf(volume.KindInternal, "Cinder failed to delete the volume, which is in the state %s: %s",
		v.Status, b.reasons.OfVolume(ctx, c, v, volume.KindInternal).Text).
		WithRemedy("ask an administrator of the cloud to find the cause, then to run: " +
			"openstack volume delete --force " + v.ID)
}

// snapshotsError returns the error for a deletion that Cinder did not accept because the volume has
// snapshots, or cause if it has none.
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
	return volume.Errorf(volume.KindPrecondition, "the volume has snapshots: %s: %w", text, cause).
		WithRemedy("delete the snapshots first")
}
