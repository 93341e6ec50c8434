package cinder

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// helperDescription is for people who find the snapshot.
const helperDescription = description + ", only for a backup to be made from it"

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
func (t taking) backup(ctx context.Context) (volume.Snapshot, error) {
	var none volume.Snapshot
	inner, cancel := answerable(ctx)
	defer cancel()
	backup, found, err := t.backupNamed(inner)
	if err != nil {
		return none, err
	}
	if !found {
		helper, err := t.helper(inner)
		if err != nil {
			return none, err
		}
		if backup, err = t.begin(inner, helper); err != nil {
			return none, err
		}
		// Whatever has become of it by now: the caller must have the id first,
		// or nobody will ever delete it.
		s := domainBackup(backup)
		s.Ready = false
		return s, nil
	}
	switch backup.Status {
	case snapAvailable:
		return t.complete(inner, backup)
	case snapError:
		if err := t.b.dropHelper(inner, t.cloud, backup); err != nil {
			t.stays(inner, backup, err) // until the backup is deleted
		}
		return none, volume.Errorf(volume.Internal, "Cinder has failed to make the backup %s: %s", backup.ID, failReason(backup)).
			WithRemedy("delete the snapshot and take another; the log of cinder-backup may tell more")
	case snapDeleting, snapErrorDeleting:
		return none, volume.Errorf(volume.InProgress, "a backup %s of this name is %s", backup.ID, backup.Status).
			WithRemedy("it will be retried; if it stays like this, an administrator has to remove it")
	}
	return domainBackup(backup), nil
}

// complete is the result for a backup that Cinder has made: it is Ready without
// its helper, which would keep the volume from deletion.
func (t taking) complete(ctx context.Context, backup cloud.Backup) (volume.Snapshot, error) {
	s := domainBackup(backup)
	err := t.b.dropHelper(ctx, t.cloud, backup)
	s.Ready = err == nil
	switch {
	case err == nil, passes(err):
		return s, nil
	case volume.IsKind(err, volume.Precondition):
		return s, volume.Errorf(volume.InProgress, "the backup %s is complete, but the snapshot that it was made from cannot be deleted yet: %w", backup.ID, err)
	}
	t.stays(ctx, backup, err) // the backup is good without it
	s.Ready = true
	return s, nil
}

// passes tells whether what keeps a helper from its deletion ends by itself.
func passes(err error) bool {
	return volume.IsKind(err, volume.Deadline) || volume.IsKind(err, volume.InProgress) || volume.IsKind(err, volume.Unavailable)
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

// backupNamed looks for the backup of the request's name. Kind AlreadyExists:
// it is of another volume.
func (t taking) backupNamed(ctx context.Context) (backup cloud.Backup, found bool, err error) {
	all, err := t.cloud.BackupsNamed(ctx, t.name)
	if err != nil || len(all) == 0 {
		return backup, false, err
	}
	oldestFirst(all, func(b cloud.Backup) (time.Time, string) { return b.Created, b.ID })
	i := slices.IndexFunc(all, func(b cloud.Backup) bool { return b.VolumeID == t.volumeID })
	if i < 0 {
		return backup, false, t.other(all[0].ID, all[0].VolumeID)
	}
	return all[i], true, nil
}

// helper returns the helper snapshot when a backup can be made from it.
func (t taking) helper(ctx context.Context) (cloud.Snapshot, error) {
	s, found, err := t.named(ctx)
	if err != nil {
		return s, err
	}
	if found && s.Metadata[metaBackupOf] != t.name {
		return s, volume.Errorf(volume.AlreadyExists, "snapshot %s has the name %s and is not one to make a backup from", s.ID, t.name).
			WithRemedy("use another name, or the class that the snapshot was made with")
	}
	if found && s.Status == snapDeleting { // it was of no use to an earlier call
		if err := t.b.dropSnapshot(ctx, t.cloud, s); !volume.IsKind(err, volume.NotFound) {
			return s, err
		}
		found = false
	}
	if !found {
		metadata := map[string]string{metaBackupOf: t.name}
		maps.Copy(metadata, t.class.metadata)
		if s, err = t.create(ctx, metadata, helperDescription); err != nil {
			return s, err
		}
	}
	id := s.ID
	s, err = awaitSnapshot(ctx, t.cloud, id, func(s cloud.Snapshot) bool { return s.Status != snapCreating })
	if volume.IsKind(err, volume.NotFound) {
		err = volume.Errorf(volume.InProgress, "the snapshot %s to make the backup from was deleted meanwhile", id)
	}
	if err != nil {
		return s, err
	}
	switch s.Status {
	case snapAvailable:
		return s, nil
	case snapError:
		// No id has been given away yet, so the next call may start anew.
		err = volume.Errorf(volume.Internal, "Cinder has failed to take the snapshot %s to make the backup from: %s", id, t.b.snapshotReason(ctx, t.cloud, s)).
			WithRemedy("it will be retried with a new one")
		t.discard(ctx, id)
		return s, err
	}
	return s, volume.Errorf(volume.InProgress, "the snapshot %s to make the backup from is %s", id, s.Status)
}

// begin asks Cinder for the backup. What it refuses for good leaves no helper
// behind: nobody knows of it yet, and nobody would ever delete it.
func (t taking) begin(ctx context.Context, helper cloud.Snapshot) (cloud.Backup, error) {
	backup, err := t.cloud.CreateBackup(ctx, cloud.NewBackup{
		Name: t.name, Description: description, VolumeID: t.volumeID, SnapshotID: helper.ID,
		Zone: t.class.zone, Incremental: t.class.incremental, Metadata: t.class.metadata,
	})
	if err == nil {
		return t.cloud.Backup(ctx, backup.ID) // the answer to the creation has little more than the id
	}
	switch volume.KindOf(err) {
	case volume.Unavailable, volume.Deadline, volume.Canceled, volume.InProgress:
	default:
		t.discard(ctx, helper.ID)
	}
	return backup, full(err)
}

// discard asks for the deletion of a helper that is of no use.
func (t taking) discard(ctx context.Context, id string) {
	if err := t.cloud.DeleteSnapshot(ctx, id); err != nil && !volume.IsKind(err, volume.NotFound) {
		t.b.log.WarnContext(ctx, "a snapshot that was taken only for a backup could not be deleted", "snapshot", id, "backup", t.name, "error", err)
	}
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
			if volume.IsKind(err, volume.NotFound) {
				break
			}
			if !volume.IsKind(err, volume.Precondition) || volume.Pause(short, novaStep) != nil {
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
		return volume.Errorf(volume.InProgress, "the backup is still being made, and Cinder deletes it only after that").
			WithRemedy("it will be retried")
	}
	if err := b.dropHelper(ctx, c, backup); err != nil {
		if passes(err) {
			return volume.Errorf(volume.InProgress, "the snapshot that the backup was made from is still being deleted: %w", err)
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
	return volume.Errorf(volume.Internal, "Cinder has failed to delete the backup, which is %s: %s", backup.Status, failReason(backup)).
		WithRemedy("an administrator of the cloud has to find out why and delete it: openstack volume backup delete --force " + id)
}

func domainBackup(b cloud.Backup) volume.Snapshot {
	return volume.Snapshot{
		ID: b.ID, Name: b.Name, VolumeID: b.VolumeID, Size: volume.Size(b.SizeGiB) * volume.GiB,
		Created: b.Created.Truncate(time.Second), Ready: b.Status == snapAvailable,
	}
}
