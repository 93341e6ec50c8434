package cinder

import (
	"context"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// DeleteSnapshot implements volume.Snapshotter: it returns when the snapshot,
// or the backup of that id, is really gone. Kinds: Precondition (volumes
// depend on it), InProgress (it is being made or read), Internal (Cinder has
// failed to delete it), Deadline.
func (b *Backend) DeleteSnapshot(ctx context.Context, id string) error {
	inner, cancel := answerable(ctx)
	defer cancel()
	k, err := b.kept(inner, id)
	switch {
	case err != nil:
	case k.backup != nil:
		err = b.dropBackup(inner, k.cloud, *k.backup)
	default:
		if err = b.awaitCopies(inner, k.cloud, id, "fail if the snapshot were deleted now"); err == nil {
			err = b.dropSnapshot(inner, k.cloud, *k.snapshot)
		}
	}
	if err != nil && !volume.IsKind(err, volume.KindNotFound) {
		return volume.Wrap(err, "delete snapshot", id)
	}
	b.forget(id)
	return nil
}

// dropSnapshot drives a snapshot to absence; kind NotFound is one of its
// successes.
func (b *Backend) dropSnapshot(ctx context.Context, c *cloud.Cloud, s cloud.Snapshot) error {
	id := s.ID
	if s.Status == snapCreating {
		var err error
		s, err = awaitSnapshot(ctx, c, id, func(s cloud.Snapshot) bool { return s.Status != snapCreating })
		if err != nil {
			return err
		}
	}
	if s.Status != snapDeleting && s.Status != snapErrorDeleting {
		if err := c.DeleteSnapshot(ctx, id); err != nil {
			if s, errRead := c.Snapshot(ctx, id); errRead == nil && volume.IsKind(err, volume.KindPrecondition) && s.Status != snapAvailable && s.Status != snapDeleting {
				return volume.Errorf(volume.KindInProgress, "the snapshot is %s: %w", s.Status, err).
					WithRemedy("no action needed: Kubernetes retries this automatically")
			}
			return err
		}
	}
	s, err := awaitSnapshot(ctx, c, id, func(s cloud.Snapshot) bool { return s.Status != snapDeleting })
	if err != nil {
		return err
	}
	why := b.snapshotReason(ctx, c, s)
	if s.Status == snapErrorDeleting {
		return volume.Errorf(volume.KindInternal, "Cinder has failed to delete the snapshot: %s", why).
			WithRemedy("an administrator of the cloud has to find out why and delete it: openstack volume snapshot delete --force " + id)
	}
	return volume.Errorf(volume.KindPrecondition, "Cinder accepted the deletion and then took it back: the snapshot is %s again; %s", s.Status, why).
		WithRemedy("delete the volumes that were made from it first; the storage needs its data still")
}

// awaitSnapshot reads a snapshot until it is as wanted. Kind NotFound: it has
// gone. Snapshots are few beside volumes, so each wait polls for itself.
func awaitSnapshot(ctx context.Context, c *cloud.Cloud, id string, wanted func(cloud.Snapshot) bool) (s cloud.Snapshot, err error) {
	err = until(ctx, "snapshot", func() (string, bool, error) {
		s, err = c.Snapshot(ctx, id)
		return s.Status, err == nil && wanted(s), err
	})
	return s, err
}

// until looks again and again, with growing pauses, until look says that it is
// done. look returns the status seen, for the error (kind Deadline) when ctx
// ends first.
func until(ctx context.Context, what string, look func() (status string, done bool, err error)) error {
	seen := ""
	for step := firstLook; ; step = min(step*3/2, longestStep) {
		status, done, err := look()
		if done || err != nil && (ctx.Err() == nil || seen == "") {
			return err
		}
		if err == nil {
			seen = status
			err = operation.Sleep(ctx, jitter(step))
		}
		if err != nil {
			return volume.Errorf(volume.KindOf(err), "the time ran out in waiting for Cinder; the %s is still %s", what, seen).
				WithRemedy("no action needed: the operation continues and the next retry picks it up")
		}
	}
}
