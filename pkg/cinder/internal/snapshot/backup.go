package snapshot

import (
	"context"
	"maps"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/poll"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// backup returns a snapshot of the type "backup". While Cinder makes a backup from the volume
// itself, the volume stays in the state "backing-up", maybe for hours, in which it can be neither
// attached nor detached nor expanded. So backup takes a helper snapshot, makes the backup from it,
// and deletes the helper when the backup is complete. Each call reads the present state and goes on
// from there; nothing runs in the background, and the helper has the backup's name, so that the
// driver needs no memory.
//
// The first call waits for the helper, because the id to return is that of the backup. The backup
// is not Ready until Cinder says so and the helper is gone.
//
// Each backup is created with the metadata key Unanswered, which is removed before a call returns
// the id. If a backup that still has the key fails, nobody knows it and nobody would delete it: the
// driver deletes it and makes another. A failed backup without the key stays for the caller, who
// keeps the first id for good and deletes by it.
func (k creation) backup(ctx context.Context) (volume.Snapshot, error) {
	var none volume.Snapshot
	backup, found, err := k.findBackup(ctx)
	if err != nil {
		return none, err
	}
	if !found {
		helper, err := k.takeHelper(ctx)
		if err != nil {
			return none, err
		}
		if backup, err = k.requestBackup(ctx, helper); err != nil {
			return none, err
		}
		// Whatever its state is by now, the caller must get the id: nobody else would delete the backup.
		return k.answer(ctx, backup)
	}
	k.req.NotifyAccepted()
	switch backup.Status {
	case state.Available:
		return k.complete(ctx, backup)
	case state.Error:
		if err := k.deleteHelper(ctx, k.cloud, backup); err != nil {
			k.warnHelper(ctx, backup, err) // the deletion of the backup removes the helper
		}
		return none, volume.Errorf(volume.KindInternal,
			"Cinder failed to make the backup %s: %s", backup.ID, failReason(backup)).
			WithRemedy("delete the snapshot and take another; the log of cinder-backup may have the cause")
	case state.Deleting, state.ErrorDeleting:
		return none, volume.Errorf(volume.KindInProgress, "a backup %s of this name is %s", backup.ID, backup.Status).
			WithRemedy(message.Retries + "; if it lasts, ask an administrator to run: " +
				"openstack volume backup delete --force " + backup.ID)
	}
	return k.answer(ctx, backup)
}

// helperInterval is the time between attempts to delete the helper of a backup.
const helperInterval = 500 * time.Millisecond

// answer returns a backup that is not Ready. It first removes the key Unanswered; while that fails,
// no call returns the id before the backup is Ready.
func (k creation) answer(ctx context.Context, backup cloud.Backup) (volume.Snapshot, error) {
	if isUnanswered(backup) {
		m := maps.Clone(cloud.MetadataOf(backup))
		delete(m, metadata.Unanswered)
		if err := k.cloud.SetBackupMetadata(ctx, backup.ID, m); err != nil {
			return volume.Snapshot{}, volume.Errorf(nonFinalKind(err),
				"the backup %s is not ready yet, and it could not be recorded that its id is in use: %w", backup.ID, err).
				WithRemedy("no action needed: the backup continues and Kubernetes retries this automatically")
		}
	}
	s := fromBackup(backup)
	s.Ready = false
	return s, nil
}

// isUnanswered reports whether no call has returned the id of a backup.
func isUnanswered(backup cloud.Backup) bool {
	return cloud.MetadataOf(backup)[metadata.Unanswered] != ""
}

// complete returns a backup that Cinder has made. The backup is Ready without its helper, which
// would prevent the deletion of the volume.
func (k creation) complete(ctx context.Context, backup cloud.Backup) (volume.Snapshot, error) {
	s := fromBackup(backup)
	err := k.deleteHelper(ctx, k.cloud, backup)
	s.Ready = err == nil
	switch {
	case err == nil:
		return s, nil
	case endsByItself(err):
		return k.answer(ctx, backup)
	case volume.IsKind(err, volume.KindPrecondition):
		return s, volume.Errorf(volume.KindInProgress,
			"the backup %s is complete, but the snapshot that it was made from cannot be deleted yet: %w", backup.ID, err)
	}
	k.warnHelper(ctx, backup, err) // the backup is usable although its helper stays
	s.Ready = true
	return s, nil
}

func (k creation) warnHelper(ctx context.Context, backup cloud.Backup, err error) {
	k.log.WarnContext(ctx, "could not delete a snapshot that was taken only for a backup",
		"backup", backup.ID, "error", err)
}

func failReason(backup cloud.Backup) string {
	if backup.FailReason == "" {
		return "Cinder gave no reason"
	}
	return "Cinder says: " + backup.FailReason
}

// findBackup returns the backup of the request's name: the oldest one whose id a call has returned,
// else the oldest one. It deletes backups of this cluster that no call has returned and that failed
// or are being deleted. Kind AlreadyExists: only other volumes have backups of that name.
func (k creation) findBackup(ctx context.Context) (backup cloud.Backup, found bool, err error) {
	all, err := k.cloud.BackupsNamed(ctx, k.req.Name)
	if err != nil || len(all) == 0 {
		return backup, false, unknownError(err)
	}
	sortByAge(all, func(b cloud.Backup) (time.Time, string) { return b.CreatedAt, b.ID })
	ofVolume := 0
	for _, one := range all {
		switch {
		case one.VolumeID != k.req.VolumeID:
			continue
		case isUnanswered(one) && k.isOwn(cloud.MetadataOf(one)) &&
			(one.Status == state.Error || one.Status == state.Deleting):
			k.log.InfoContext(ctx, "deleting a failed backup whose id no call has returned",
				"backup", one.ID, "name", k.req.Name, "reason", failReason(one))
			if err := k.deleteBackup(ctx, k.cloud, one); !volume.IsKind(err, volume.KindNotFound) {
				return one, false, leftoverError("backup", one.ID, one.Status, err)
			}
		case !found, isUnanswered(backup) && !isUnanswered(one):
			backup, found = one, true
		}
		ofVolume++
	}
	if ofVolume == 0 {
		return backup, false, k.otherVolumeError(all[0].ID, all[0].VolumeID)
	}
	return backup, found, nil
}

// takeHelper returns the helper snapshot when Cinder can make a backup from it.
func (k creation) takeHelper(ctx context.Context) (cloud.Snapshot, error) {
	m := map[string]string{metadata.BackupOf: k.req.Name}
	maps.Copy(m, k.class.Metadata)
	s, err := k.take(ctx, cloud.NewSnapshot{
		Description: metadata.Description + ", only for a backup to be made from it", Metadata: m,
	})
	if err == nil && s.Status != state.Available {
		err = volume.Errorf(volume.KindInProgress, "the snapshot %s to make the backup from is %s", s.ID, s.Status)
	}
	return s, err
}

// requestBackup asks Cinder for the backup. If Cinder refuses it for good, requestBackup deletes
// the helper: no call has returned an id by which it could be deleted.
func (k creation) requestBackup(ctx context.Context, helper cloud.Snapshot) (cloud.Backup, error) {
	m := map[string]string{metadata.Unanswered: "true"}
	maps.Copy(m, k.class.Metadata)
	backup, err := k.cloud.CreateBackup(ctx, cloud.NewBackup{
		Name: k.req.Name, Description: metadata.Description, VolumeID: k.req.VolumeID, SnapshotID: helper.ID,
		AvailabilityZone: k.class.Zone, Incremental: k.class.Incremental, Metadata: m,
	})
	if err == nil {
		backup, err = k.cloud.Backup(ctx, backup.ID) // the answer to the creation has little more than the id
		return backup, unknownError(err)
	}
	err = k.requestError(err)
	if endsByItself(err) || volume.IsKind(err, volume.KindCanceled) {
		return backup, err
	}
	if errDelete := k.deleteSnapshot(ctx, k.cloud, helper); !volume.IsKind(errDelete, volume.KindNotFound) {
		return backup, volume.Errorf(volume.KindUnavailable,
			"%w; and the snapshot %s to make the backup from could not be deleted: %s", err, helper.ID, errDelete.Error())
	}
	return backup, err
}

// deleteHelper deletes the helper snapshot of a backup; nil: it is gone. It tries for a share of
// the remaining time: right after the backup the storage may still be busy with the helper (kind
// Precondition).
func (s *Service) deleteHelper(ctx context.Context, c *cloud.Cloud, backup cloud.Backup) error {
	all, err := c.SnapshotsNamed(ctx, backup.Name)
	if err != nil {
		return err
	}
	limited, cancel := poll.WithShare(ctx)
	defer cancel()
	for _, one := range all {
		if one.VolumeID != backup.VolumeID || one.Metadata[metadata.BackupOf] != backup.Name {
			continue
		}
		for {
			err := s.deleteSnapshot(limited, c, one)
			if volume.IsKind(err, volume.KindNotFound) {
				break
			}
			if !volume.IsKind(err, volume.KindPrecondition) || operation.Sleep(limited, helperInterval) != nil {
				return err
			}
			one.Status = state.Available // Cinder has taken the deletion back
		}
	}
	return nil
}

// deleteBackup deletes a backup and waits until it is gone: its error is never nil, and of kind
// NotFound when the backup is gone. It deletes the helper first: without the backup nobody would
// delete the helper.
func (s *Service) deleteBackup(ctx context.Context, c *cloud.Cloud, backup cloud.Backup) error {
	if backup.Status == state.Creating {
		return volume.Errorf(volume.KindInProgress, "Cinder is still making the backup and deletes it only after that").
			WithRemedy(message.NoAction)
	}
	if err := s.deleteHelper(ctx, c, backup); err != nil {
		if endsByItself(err) {
			return volume.Errorf(volume.KindInProgress,
				"the snapshot that the backup was made from is still being deleted: %w", err)
		}
		return err
	}
	if backup.Status != state.Deleting && backup.Status != state.ErrorDeleting {
		if err := c.DeleteBackup(ctx, backup.ID); err != nil {
			return err
		}
	}
	id := backup.ID
	err := poll.Until(ctx, "backup", func() (string, bool, error) {
		var err error
		backup, err = c.Backup(ctx, id)
		return backup.Status, err == nil && backup.Status != state.Deleting, err
	})
	if err != nil {
		return err
	}
	return volume.Errorf(volume.KindInternal,
		"Cinder failed to delete the backup, which is %s: %s", backup.Status, failReason(backup)).
		WithRemedy("ask an administrator of the cloud to find the cause, then to run: " +
			"openstack volume backup delete --force " + id)
}
