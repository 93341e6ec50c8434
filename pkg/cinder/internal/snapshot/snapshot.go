// Package snapshot creates, finds, deletes and lists CSI snapshots. A CSI snapshot is a snapshot
// of Cinder or, with the type "backup" of its class, a backup.
//
// Begin with Service.CreateSnapshot, in create.go: it finds the objects of the request's name and
// continues from their state; backup.go does so for backups. Of the operations on volumes the
// package knows only package copies, where it records snapshots that Cinder has not taken yet.
package snapshot

import (
	"context"
	"log/slog"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/attempt"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/copies"
	"github.com/growvol/growvol/pkg/cinder/internal/locate"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/poll"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
)

// Service implements volume.SnapshotLister and, except Restore, volume.Snapshotter for one cluster.
// New makes one.
type Service struct {
	clusterID string
	locator   *locate.Locator
	copies    *copies.Copies
	log       *slog.Logger
	attempts  attempt.Attempts
}

// New returns the Service of a cluster.
func New(clusterID string, locator *locate.Locator, c *copies.Copies, log *slog.Logger) *Service {
	return &Service{clusterID: clusterID, locator: locator, copies: c, log: log}
}

// GetSnapshot implements volume.Snapshotter. id may be the id of a backup. Kind NotFound: neither a
// snapshot nor a backup has the id.
func (s *Service) GetSnapshot(ctx context.Context, id string) (volume.Snapshot, error) {
	o, err := s.read(ctx, id)
	if err != nil {
		return volume.Snapshot{}, volume.Wrap(err, "get snapshot", id)
	}
	return o.toSnapshot(), nil
}

// DeleteSnapshot implements volume.Snapshotter: it deletes a snapshot or backup and returns when
// Cinder no longer knows it. Kinds: Precondition (volumes or backups depend on it), InProgress
// (Cinder is making or reading it).
func (s *Service) DeleteSnapshot(ctx context.Context, id string) error {
	o, err := s.read(ctx, id)
	switch {
	case err != nil:
	case o.backup != nil:
		err = s.deleteBackup(ctx, o.cloud, *o.backup)
	default:
		err = s.copies.Await(ctx, o.cloud, id, "the copy would fail if the snapshot were deleted now")
		if err == nil {
			err = s.deleteSnapshot(ctx, o.cloud, *o.snapshot)
		}
	}
	if err != nil && !volume.IsKind(err, volume.KindNotFound) {
		return volume.Wrap(err, "delete snapshot", id)
	}
	s.locator.Forget(id)
	s.copies.Forget(id)
	return nil
}

// deleteSnapshot deletes a snapshot and waits until it is gone. It always returns an error: kind
// NotFound means that the snapshot is gone.
func (s *Service) deleteSnapshot(ctx context.Context, c *cloud.Cloud, snapshot cloud.Snapshot) error {
	id := snapshot.ID
	if snapshot.Status == state.Creating {
		var err error
		snapshot, err = poll.AwaitSnapshot(ctx, c, id, state.Creating)
		if err != nil {
			return err
		}
	}
	if snapshot.Status != state.Deleting && snapshot.Status != state.ErrorDeleting {
		if err := c.DeleteSnapshot(ctx, id); err != nil {
			current, errRead := c.Snapshot(ctx, id)
			if errRead == nil && volume.IsKind(err, volume.KindPrecondition) &&
				current.Status != state.Available && current.Status != state.Deleting {
				return volume.Errorf(volume.KindInProgress, "the snapshot has the status %s: %w", current.Status, err).
					WithRemedy(message.NoAction)
			}
			return err
		}
	}
	snapshot, err := poll.AwaitSnapshot(ctx, c, id, state.Deleting)
	if err != nil {
		return err
	}
	reason := message.SnapshotReason(ctx, s.log, c, snapshot)
	if snapshot.Status == state.ErrorDeleting {
		return volume.Errorf(volume.KindInternal, "Cinder failed to delete the snapshot: %s", reason).
			WithRemedy("ask the cloud operator to find the cause, then to run: openstack volume snapshot delete --force " + id)
	}
	return volume.Errorf(volume.KindPrecondition,
		"Cinder did not complete the deletion: the snapshot has the status %s again; %s", snapshot.Status, reason).
		WithRemedy("first delete the volumes that were created from this snapshot: the storage still needs its data")
}

// object is the object that has the id of a CSI snapshot: either snapshot or backup is set.
type object struct {
	cloud    *cloud.Cloud
	snapshot *cloud.Snapshot
	backup   *cloud.Backup
}

func (o object) toSnapshot() volume.Snapshot {
	if o.backup != nil {
		return fromBackup(*o.backup)
	}
	return fromSnapshot(*o.snapshot)
}

// read reads the snapshot or backup of an id. Kind NotFound: neither a snapshot nor a backup has
// the id.
//
// If Cinder denies reading any backup, an id that no snapshot has counts as not found: with such
// credentials this driver makes no backup, and the deletion of a snapshot that is gone must
// succeed. If Cinder denies reading only this backup, the backup exists.
func (s *Service) read(ctx context.Context, id string) (object, error) {
	var o object
	read := func(ctx context.Context, c *cloud.Cloud) error {
		snapshot, err := c.Snapshot(ctx, id)
		if err == nil {
			o = object{cloud: c, snapshot: &snapshot}
			return nil
		}
		if !volume.IsKind(err, volume.KindNotFound) {
			return err
		}
		backup, err := c.Backup(ctx, id)
		switch {
		case err == nil:
			o = object{cloud: c, backup: &backup}
		case volume.IsKind(err, volume.KindNotFound):
			return volume.Errorf(volume.KindNotFound, "Cinder has no snapshot and no backup of this id")
		case c.ForbidsBackups(ctx, err):
			s.log.WarnContext(ctx,
				"Cinder has no snapshot of the id and denies reading any backup: the driver treats the snapshot as deleted",
				"id", id, "error", err,
				"remedy",
				"if other credentials created a backup with this id, delete it with those: openstack volume backup delete "+id)
			return volume.Errorf(volume.KindNotFound,
				"Cinder has no snapshot of this id and denies reading any backup: %s", err.Error())
		}
		return err
	}
	c, err := s.locator.Find(ctx, id, read)
	if err == nil && o.cloud == nil {
		err = read(ctx, c)
	}
	return o, err
}

// fromSnapshot returns a snapshot of Cinder as a CSI snapshot. It drops the fraction of a second,
// which only Cinder's response to the creation has: the creation time must not change.
func fromSnapshot(s cloud.Snapshot) volume.Snapshot {
	return volume.Snapshot{
		ID: s.ID, Name: s.Name, VolumeID: s.VolumeID, Size: volume.Size(s.Size) * volume.GiB,
		Created: s.CreatedAt.Truncate(time.Second), Ready: s.Status == state.Available,
	}
}

// fromBackup returns a backup as a CSI snapshot.
func fromBackup(b cloud.Backup) volume.Snapshot {
	return fromSnapshot(cloud.Snapshot{
		ID: b.ID, Name: b.Name, VolumeID: b.VolumeID, Size: b.Size, CreatedAt: b.CreatedAt, Status: b.Status,
	})
}

// isOwn reports whether metadata belong to an object of this cluster.
func (s *Service) isOwn(m map[string]string) bool { return metadata.IsOfCluster(m, s.clusterID) }
