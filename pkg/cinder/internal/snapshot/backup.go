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

// backup returns the backup of the request's name, and creates it if necessary. While Cinder makes
// a backup from the volume itself, possibly for hours, the volume stays in the state "backing-up",
// in which it can be neither attached nor detached nor expanded. So backup takes a helper snapshot,
// makes the backup from the helper, and deletes the helper when the backup is complete. Each call
// continues from the present state in Cinder, where the helper has the backup's name: nothing runs
// in the background, and the driver stores nothing.
//
// The first call waits for the helper, because it returns the id of the backup. The backup is Ready
// when Cinder has completed it and the helper is gone; see complete for the exception.
//
// Each backup is created with the metadata key Unanswered, which is removed before a call returns
// the id. If a backup that still has the key fails, no caller has its id and could delete it: the
// driver deletes it and makes another. A failed backup without the key remains: the caller has its
// id and deletes it.
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
		// The caller gets the id in any state of the backup, so that it can delete the backup.
		return k.answer(ctx, backup)
	}
	k.req.NotifyAccepted()
	switch backup.Status {
	case state.Available:
		return k.complete(ctx, backup)
	case state.Error:
		if err := k.deleteHelper(ctx, k.cloud, backup); err != nil {
			k.warnHelper(ctx, backup, err) // the deletion of the backup will delete the helper
		}
		return none, volume.Errorf(volume.KindInternal,
			"Cinder failed to make the backup %s: %s", backup.ID, failReason(backup)).
			WithRemedy("delete the VolumeSnapshot and create another; the cause may be in the log of cinder-backup")
	case state.Deleting, state.ErrorDeleting:
		return none, volume.Errorf(volume.KindInProgress, "backup %s of this name has the status %s", backup.ID,
			backup.Status).
			WithRemedy(message.IfPersists + "ask the cloud operator to run: " +
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
				"cannot remove the metadata key %s from backup %s, which is not ready yet: %w", metadata.Unanswered, backup.ID,
				err).
				WithRemedy(message.Continues)
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

// complete returns a backup that Cinder has completed, and deletes its helper, which would prevent
// the deletion of the volume. The backup is Ready when the helper is gone, or when only a person
// can make its deletion succeed.
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
			"backup %s is complete, but its helper snapshot cannot be deleted yet: %w", backup.ID, err)
	}
	k.warnHelper(ctx, backup, err)
	s.Ready = true
	return s, nil
}

func (k creation) warnHelper(ctx context.Context, backup cloud.Backup, err error) {
	k.log.WarnContext(ctx, "cannot delete the helper snapshot of a backup",
		"backup", backup.ID, "error", err)
}

func failReason(backup cloud.Backup) string {
	if backup.FailReason == "" {
		return "Cinder gave no reason"
	}
	return "Cinder says: " + backup.FailReason
}

// findBackup returns the backup of the request's name: the oldest one whose id a call has returned,
// else the oldest one. It deletes this cluster's backups that failed or are being deleted and whose
// id no call has returned. Kind AlreadyExists: only other volumes have backups of that name.
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

// takeHelper returns the helper snapshot when it is available, so that Cinder can make a backup of
// it.
func (k creation) takeHelper(ctx context.Context) (cloud.Snapshot, error) {
	m := map[string]string{metadata.BackupOf: k.req.Name}
	maps.Copy(m, k.class.Metadata)
	s, err := k.take(ctx, cloud.NewSnapshot{
		Description: metadata.Description + ", only for a backup to be made from it", Metadata: m,
	})
	if err == nil && s.Status != state.Available {
		err = volume.Errorf(volume.KindInProgress, "the helper snapshot %s of the backup has the status %s", s.ID, s.Status)
	}
	return s, err
}

// requestBackup asks Cinder for the backup. If a retry cannot succeed without a person,
// requestBackup deletes the helper: no caller has an id with which it could delete the helper.
func (k creation) requestBackup(ctx context.Context, helper cloud.Snapshot) (cloud.Backup, error) {
	m := map[string]string{metadata.Unanswered: "true"}
	maps.Copy(m, k.class.Metadata)
	backup, err := k.cloud.CreateBackup(ctx, cloud.NewBackup{
		Name: k.req.Name, Description: metadata.Description, VolumeID: k.req.VolumeID, SnapshotID: helper.ID,
		AvailabilityZone: k.class.Zone, Incremental: k.class.Incremental, Metadata: m,
	})
	if err == nil {
		backup, err = k.cloud.Backup(ctx, backup.ID) // the response to the creation lacks most fields
		return backup, unknownError(err)
	}
	err = k.requestError(err)
	if endsByItself(err) || volume.IsKind(err, volume.KindCanceled) {
		return backup, err
	}
	if errDelete := k.deleteSnapshot(ctx, k.cloud, helper); !volume.IsKind(errDelete, volume.KindNotFound) {
		return backup, volume.Errorf(volume.KindUnavailable,
			"%w; the driver cannot delete the helper snapshot %s: %s", err, helper.ID, errDelete.Error())
	}
	return backup, err
}

// deleteHelper deletes the helper snapshot of a backup and returns nil when it is gone. It retries
// for a share of the remaining time while the error has kind Precondition: right after the backup
// the storage may still be using the helper.
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
			one.Status = state.Available // Cinder did not complete the deletion
		}
	}
	return nil
}

// deleteBackup deletes a backup and waits until it is gone. It always returns an error: kind
// NotFound means that the backup is gone. It deletes the helper first, because after the backup no
// call would delete the helper.
func (s *Service) deleteBackup(ctx context.Context, c *cloud.Cloud, backup cloud.Backup) error {
	if backup.Status == state.Creating {
		return volume.Errorf(volume.KindInProgress,
			"Cinder is still making the backup and can delete it only when it is complete").
			WithRemedy(message.NoAction)
	}
	if err := s.deleteHelper(ctx, c, backup); err != nil {
		if endsByItself(err) {
			return volume.Errorf(volume.KindInProgress,
				"the helper snapshot of the backup is still being deleted: %w", err)
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
		"Cinder failed to delete the backup (status %s): %s", backup.Status, failReason(backup)).
		WithRemedy("ask the cloud operator to find the cause, then to run: openstack volume backup delete --force " + id)
}
