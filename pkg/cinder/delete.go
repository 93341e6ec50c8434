package cinder

import (
	"context"
	"fmt"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// Delete implements volume.Backend. Cinder accepts a deletion and does it
// later, or fails to, or even takes it back: only its not knowing the volume
// any more is a success.
func (b *Backend) Delete(ctx context.Context, id string) error {
	c, err := b.cloudOf(ctx, id)
	if err == nil {
		err = b.remove(ctx, c, id)
	}
	if err != nil && !volume.IsKind(err, volume.KindNotFound) {
		return volume.Wrap(err, "delete volume", id)
	}
	b.forget(id)
	return nil
}

// remove drives a volume to absence. Kind NotFound is one of its successes.
func (b *Backend) remove(ctx context.Context, c *cloud.Cloud, id string) error {
	v, err := c.Volume(ctx, id)
	if err != nil {
		return err
	}
	if v, err = b.awaitDeletable(ctx, c, v); err != nil {
		return err
	}
	if err := b.awaitCopies(ctx, c, id, "fail if the volume were deleted now"); err != nil {
		return err
	}
	if v.Status != stateDeleting {
		if err := c.DeleteVolume(ctx, id); err != nil {
			return b.whyKept(ctx, c, v, err)
		}
	}
	left, gone, err := b.awaitGone(ctx, c, id)
	if err == nil && !gone && settled(left) {
		// The reading may be from a database that lags behind.
		if err := operation.Sleep(ctx, confirmAfter); err != nil {
			return err
		}
		left, gone, err = b.awaitGone(ctx, c, id)
	}
	switch {
	case gone || err != nil:
		return err
	case left.Status == stateErrorDeleting:
		return b.brokenDeletion(ctx, c, left)
	}
	return volume.Errorf(volume.KindPrecondition, "Cinder accepted the deletion and then took it back: the volume is %s again; %s",
		left.Status, b.reasonOf(ctx, c, left, volume.KindPrecondition).text).
		WithRemedy("delete the volumes and snapshots that were made from it first; the storage may need its data still")
}

// awaitDeletable waits for the end of what goes on with the volume, as far as
// it does not rule the deletion out.
func (b *Backend) awaitDeletable(ctx context.Context, c *cloud.Cloud, v cloud.Volume) (cloud.Volume, error) {
	if len(v.Attachments) == 0 && v.Status != stateInUse {
		var err error
		if v, err = b.awaitSettled(ctx, c, v); err != nil {
			return v, err
		}
	}
	switch {
	case len(v.Attachments) > 0:
		return v, volume.Errorf(volume.KindPrecondition, "the volume is attached to server %s", few(servers(v))).
			WithRemedy("delete the pods that use it, and wait until it is detached")
	case v.Status == stateInUse:
		return v, volume.Errorf(volume.KindPrecondition, "the volume is in use, but Cinder does not say by what").
			WithRemedy("see the attachments of the volume (openstack volume attachment list --volume-id " + v.ID + ")")
	case v.Status == stateErrorDeleting:
		return v, b.brokenDeletion(ctx, c, v)
	}
	return v, nil
}

func (b *Backend) brokenDeletion(ctx context.Context, c *cloud.Cloud, v cloud.Volume) error {
	return volume.Errorf(volume.KindInternal, "Cinder failed to delete the volume, which is in the state %s: %s", v.Status, b.reasonOf(ctx, c, v, volume.KindInternal).text).
		WithRemedy("an administrator of the cloud has to find out why and delete it: openstack volume delete --force " + v.ID)
}

// whyKept explains a deletion that Cinder did not accept, by what depends on
// the volume.
func (b *Backend) whyKept(ctx context.Context, c *cloud.Cloud, v cloud.Volume, cause error) error {
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
	text := few(names)
	if next != "" {
		text += " and others"
	}
	return volume.Errorf(volume.KindPrecondition, "the volume has snapshots: %s: %w", text, cause).
		WithRemedy("delete the snapshots first")
}
