package snapshot

import (
	"context"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/poll"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
)

// deleteSnapshot deletes a snapshot and waits until it is gone: its error is never nil, and of kind
// NotFound when the snapshot is gone.
func (s *Service) deleteSnapshot(ctx context.Context, c *cloud.Cloud, snapshot cloud.Snapshot) error {
	id := snapshot.ID
	if snapshot.Status == state.Creating {
		var err error
		snapshot, err = poll.AwaitSnapshot(ctx, c, id, func(s cloud.Snapshot) bool { return s.Status != state.Creating })
		if err != nil {
			return err
		}
	}
	if snapshot.Status != state.Deleting && snapshot.Status != state.ErrorDeleting {
		if err := c.DeleteSnapshot(ctx, id); err != nil {
			now, errRead := c.Snapshot(ctx, id)
			if errRead == nil && volume.IsKind(err, volume.KindPrecondition) &&
				now.Status != state.Available && now.Status != state.Deleting {
				return volume.Errorf(volume.KindInProgress, "the snapshot is %s: %w", now.Status, err).
					WithRemedy(message.NoAction)
			}
			return err
		}
	}
	snapshot, err := poll.AwaitSnapshot(ctx, c, id, func(s cloud.Snapshot) bool { return s.Status != state.Deleting })
	if err != nil {
		return err
	}
	reason := s.reasons.OfSnapshot(ctx, c, snapshot)
	if snapshot.Status == state.ErrorDeleting {
		return volume.Errorf(volume.KindInternal, "Cinder failed to delete the snapshot: %s", reason).
			WithRemedy("ask an administrator of the cloud to find the cause, then to run: " +
				"openstack volume snapshot delete --force " + id)
	}
	return volume.Errorf(volume.KindPrecondition,
		"Cinder accepted the deletion, but took it back: the snapshot is %s again; %s", snapshot.Status, reason).
		WithRemedy("first delete the volumes that were made from it: the storage still needs its data")
}
