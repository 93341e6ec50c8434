package cinder

import (
	"context"
	"maps"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// helperDescription is for people who find the snapshot.
const helperDescription = description + ", only for a backup to be made from it"

// metaUnanswered marks a backup whose id was given to nobody yet.
const metaUnanswered = ownPrefix + "unanswered"

// backup makes a snapshot of the type "backup". A backup that Cinder makes from
// the volume itself keeps the volume in the state "backing-up" all the time,
// hours maybe, in which it can be neither attached nor detached nor expanded.
// So a helper snapshot is taken first, the backup made from it, and the helper
// removed when the backup is complete. Each call reads how far that has come
// and goes on from there; nothing runs behind it, and nothing needs to be
// remembered: the helper has the backup's name.
//
// The first call waits for the helper, for the id to answer with is that of
// the backup; it is not Ready until Cinder says so and the helper is gone.
//
// Each backup is made with metaUnanswered, which is removed before its id is
// given away. A backup that has it still and has failed is known to nobody, who
// would never delete it: it is removed, and another is made. One without it is
// left to the caller, who keeps the first id for good and deletes by it.
func (t taking) backup(ctx context.Context) (volume.Snapshot, error) {
	var none volume.Snapshot
	backup, found, err := t.backupNamed(ctx)
	if err != nil {
		return none, err
	}
	if !found {
		helper, err := t.helper(ctx)
		if err != nil {
			return none, err
		}
		if backup, err = t.begin(ctx, helper); err != nil {
			return none, err
		}
		// Whatever has become of it by now: the caller must have the id first,
		// or nobody will ever delete it.
		return t.answer(ctx, backup)
	}
	t.accepted()
	switch backup.Status {
	case snapAvailable:
		return t.complete(ctx, backup)
	case snapError:
		if err := t.b.dropHelper(ctx, t.cloud, backup); err != nil {
			t.stays(ctx, backup, err) // until the backup is deleted
		}
		return none, volume.Errorf(volume.KindInternal, "Cinder has failed to make the backup %s: %s", backup.ID, failReason(backup)).
			WithRemedy("delete the snapshot and take another; the log of cinder-backup may tell more")
	case snapDeleting, snapErrorDeleting:
		return none, volume.Errorf(volume.KindInProgress, "a backup %s of this name is %s", backup.ID, backup.Status).
			WithRemedy("Kubernetes retries this automatically; if it lasts, ask an administrator to delete it: openstack volume backup delete --force " + backup.ID)
	}
	return t.answer(ctx, backup)
}

// answer is the result for a backup that is not Ready. That its id is given away is
// written down first; while that fails, nobody gets the id before the backup is Ready
// and no call asks for it any more.
func (t taking) answer(ctx context.Context, backup cloud.Backup) (volume.Snapshot, error) {
	if unanswered(backup) {
		metadata := maps.Clone(cloud.MetadataOf(backup))
		delete(metadata, metaUnanswered)
		if err := t.cloud.SetBackupMetadata(ctx, backup.ID, metadata); err != nil {
			kind := volume.KindUnavailable
			if passes(err) {
				kind = volume.KindOf(err)
			}
			return volume.Snapshot{}, volume.Errorf(kind, "the backup %s is not ready yet, and it could not be noted that its id is in use: %w", backup.ID, err).
				WithRemedy("no action needed: the backup continues and Kubernetes retries this automatically")
		}
	}
	s := domainBackup(backup)
	s.Ready = false
	return s, nil
}

// unanswered reports whether the id of a backup was given to nobody.
func unanswered(backup cloud.Backup) bool { return cloud.MetadataOf(backup)[metaUnanswered] != "" }

// complete is the result for a backup that Cinder has made: it is Ready without
// its helper, which would keep the volume from deletion.
func (t taking) complete(ctx context.Context, backup cloud.Backup) (volume.Snapshot, error) {
	s := domainBackup(backup)
	err := t.b.dropHelper(ctx, t.cloud, backup)
	s.Ready = err == nil
	switch {
	case err == nil:
		return s, nil
	case passes(err):
		return t.answer(ctx, backup)
	case volume.IsKind(err, volume.KindPrecondition):
		return s, volume.Errorf(volume.KindInProgress, "the backup %s is complete, but the snapshot that it was made from cannot be deleted yet: %w", backup.ID, err)
	}
	t.stays(ctx, backup, err) // the backup is good without it
	s.Ready = true
	return s, nil
}

// passes tells whether what keeps a helper from its deletion ends by itself.
func passes(err error) bool {
	return volume.IsKind(err, volume.KindDeadline) || volume.IsKind(err, volume.KindInProgress) || volume.IsKind(err, volume.KindUnavailable)
}

func (t taking) stays(ctx context.Context, backup cloud.Backup, err error) {
	t.b.log.WarnContext(ctx, "a snapshot that was taken only for a backup could not be deleted", "backup", backup.ID, "error", err)
}

func failReason(backup cloud.Backup) string {
	if backup.FailReason == "" {
		return "it does not say why"
	}
	return "Cinder says: " + backup.FailReason
}

// backupNamed looks for the backup of the request's name. One that Cinder failed
// to make, or that is being deleted, and that nobody knows of is removed. Kind
// AlreadyExists: there are such of other volumes only.
func (t taking) backupNamed(ctx context.Context) (backup cloud.Backup, found bool, err error) {
	all, err := t.cloud.BackupsNamed(ctx, t.name)
	if err != nil || len(all) == 0 {
		return backup, false, snapshotUnknown(err)
	}
	oldestFirst(all, func(b cloud.Backup) (time.Time, string) { return b.CreatedAt, b.ID })
	ours := 0
	for _, one := range all {
		switch {
		case one.VolumeID != t.volumeID:
			continue
		case unanswered(one) && isOfCluster(cloud.MetadataOf(one), t.b.opts.ClusterID) && (one.Status == snapError || one.Status == snapDeleting):
			t.b.log.InfoContext(ctx, "a backup that nobody got the id of has failed; it is removed", "backup", one.ID, "name", t.name, "reason", failReason(one))
			if err := t.b.dropBackup(ctx, t.cloud, one); !volume.IsKind(err, volume.KindNotFound) {
				return one, false, remains("backup", one.ID, one.Status, err)
			}
		case !found, unanswered(backup) && !unanswered(one): // the caller keeps the id that it got
			backup, found = one, true
		}
		ours++
	}
	if ours == 0 {
		return backup, false, t.other(all[0].ID, all[0].VolumeID)
	}
	return backup, found, nil
}

// helper returns the helper snapshot when a backup can be made from it.
func (t taking) helper(ctx context.Context) (cloud.Snapshot, error) {
	metadata := map[string]string{metaBackupOf: t.name}
	maps.Copy(metadata, t.class.metadata)
	s, err := t.cut(ctx, cloud.NewSnapshot{Description: helperDescription, Metadata: metadata})
	if err == nil && s.Status != snapAvailable {
		err = volume.Errorf(volume.KindInProgress, "the snapshot %s to make the backup from is %s", s.ID, s.Status)
	}
	return s, err
}

// begin asks Cinder for the backup. What it refuses for good leaves no helper
// behind: nobody knows of it yet, and nobody would ever delete it.
func (t taking) begin(ctx context.Context, helper cloud.Snapshot) (cloud.Backup, error) {
	metadata := map[string]string{metaUnanswered: "true"}
	maps.Copy(metadata, t.class.metadata)
	backup, err := t.cloud.CreateBackup(ctx, cloud.NewBackup{
		Name: t.name, Description: description, VolumeID: t.volumeID, SnapshotID: helper.ID,
		AvailabilityZone: t.class.zone, Incremental: t.class.incremental, Metadata: metadata,
	})
	if err == nil {
		backup, err = t.cloud.Backup(ctx, backup.ID) // the answer to the creation has little more than the id
		return backup, snapshotUnknown(err)
	}
	if cloud.MayBeDone(err) {
		t.b.snapshotAttempts.addLost(t.name)
	}
	err = full(err)
	if passes(err) || volume.IsKind(err, volume.KindCanceled) {
		return backup, err
	}
	if errDrop := t.b.dropSnapshot(ctx, t.cloud, helper); !volume.IsKind(errDrop, volume.KindNotFound) {
		return backup, volume.Errorf(volume.KindUnavailable, "%w; and the snapshot %s to make the backup from could not be removed: %s", err, helper.ID, errDrop.Error())
	}
	return backup, err
}

// dropHelper removes the helper snapshot of a backup; nil: it is gone. It tries
// for a part of the time left: right after the backup the storage may still be
// busy with the helper (kind Precondition).
func (b *Backend) dropHelper(ctx context.Context, c *cloud.Cloud, backup cloud.Backup) error {
	all, err := c.SnapshotsNamed(ctx, backup.Name)
	if err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, patience(ctx))
	defer cancel()
	for _, s := range all {
		if s.VolumeID != backup.VolumeID || s.Metadata[metaBackupOf] != backup.Name {
			continue
		}
		for {
			err := b.dropSnapshot(short, c, s)
			if volume.IsKind(err, volume.KindNotFound) {
				break
			}
			if !volume.IsKind(err, volume.KindPrecondition) || operation.Sleep(short, novaStep) != nil {
				return err
			}
			s.Status = snapAvailable // again
		}
	}
	return nil
}

// dropBackup drives a backup to absence, its helper first: once the backup is
// gone, nobody would come for the helper.
func (b *Backend) dropBackup(ctx context.Context, c *cloud.Cloud, backup cloud.Backup) error {
	if backup.Status == snapCreating {
		return volume.Errorf(volume.KindInProgress, "the backup is still being made, and Cinder deletes it only after that").
			WithRemedy("no action needed: Kubernetes retries this automatically")
	}
	if err := b.dropHelper(ctx, c, backup); err != nil {
		if passes(err) {
			return volume.Errorf(volume.KindInProgress, "the snapshot that the backup was made from is still being deleted: %w", err)
		}
		return err
	}
	if backup.Status != snapDeleting && backup.Status != snapErrorDeleting {
		if err := c.DeleteBackup(ctx, backup.ID); err != nil {
			return err
		}
	}
	id := backup.ID
	err := until(ctx, "backup", func() (string, bool, error) {
		var err error
		backup, err = c.Backup(ctx, id)
		return backup.Status, err == nil && backup.Status != snapDeleting, err
	})
	if err != nil {
		return err
	}
	return volume.Errorf(volume.KindInternal, "Cinder has failed to delete the backup, which is %s: %s", backup.Status, failReason(backup)).
		WithRemedy("an administrator of the cloud has to find out why and delete it: openstack volume backup delete --force " + id)
}

func domainBackup(b cloud.Backup) volume.Snapshot {
	return volume.Snapshot{
		ID: b.ID, Name: b.Name, VolumeID: b.VolumeID, Size: volume.Size(b.Size) * volume.GiB,
		Created: b.CreatedAt.Truncate(time.Second), Ready: b.Status == snapAvailable,
	}
}
