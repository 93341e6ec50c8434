// Package snapshot creates, finds, deletes and lists CSI snapshots. A CSI snapshot is a snapshot
// of Cinder or, with the type "backup" of its class, a backup.
//
// A Service does the work of the backend's RPCs for snapshots. Start with Create: it finds the
// objects of the request's name (create.go), and goes on from the state that they are in, for a
// backup in backup.go. The package knows nothing of the other operations on volumes, except that
// it adds a snapshot that Cinder has not taken yet to package copies.
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

// Service creates, finds, deletes and lists the snapshots of one cluster. New makes one.
type Service struct {
	clusterID string
	locator   *locate.Locator
	copies    *copies.Copies
	log       *slog.Logger
	reasons   message.Finder
	attempts  attempt.Attempts
}

// New returns the Service of a cluster.
func New(clusterID string, locator *locate.Locator, c *copies.Copies, log *slog.Logger) *Service {
	return &Service{clusterID: clusterID, locator: locator, copies: c, log: log, reasons: message.Finder{Log: log}}
}

// Get returns the snapshot of an id, which may be that of a backup. Kind NotFound: it is neither.
func (s *Service) Get(ctx context.Context, id string) (volume.Snapshot, error) {
	o, err := s.read(ctx, id)
	if err != nil {
		return volume.Snapshot{}, err
	}
	return o.domain(), nil
}

// Delete deletes a snapshot or backup and returns when it is gone. Kinds: NotFound (it was gone
// before), Precondition (volumes depend on it), InProgress (Cinder is making or reading it),
// Internal (Cinder failed to delete it), Deadline.
func (s *Service) Delete(ctx context.Context, id string) error {
	ctx, cancel := poll.WithAnswerMargin(ctx)
	defer cancel()
	o, err := s.read(ctx, id)
	switch {
	case err != nil:
	case o.backup != nil:
		err = s.deleteBackup(ctx, o.cloud, *o.backup)
	default:
		if err = s.copies.Await(ctx, o.cloud, id, "fail if the snapshot were deleted now"); err == nil {
			err = s.deleteSnapshot(ctx, o.cloud, *o.snapshot)
		}
	}
	if err == nil || volume.IsKind(err, volume.KindNotFound) {
		s.locator.Forget(id)
		s.copies.Forget(id)
	}
	return err
}

// deleteSnapshot deletes a snapshot and waits until it is gone: its error is never nil, and of kind
// NotFound when the snapshot is gone.
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
			now, errRead := c.Snapshot(ctx, id)
			if errRead == nil && volume.IsKind(err, volume.KindPrecondition) &&
				now.Status != state.Available && now.Status != state.Deleting {
				return volume.Errorf(volume.KindInProgress, "the snapshot is %s: %w", now.Status, err).
					WithRemedy(message.NoAction)
			}
			return err
		}
	}
	snapshot, err := poll.AwaitSnapshot(ctx, c, id, state.Deleting)
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

// object is what the id of a CSI snapshot stands for: one of snapshot and backup is set.
type object struct {
	cloud    *cloud.Cloud
	snapshot *cloud.Snapshot
	backup   *cloud.Backup
}

func (o object) domain() volume.Snapshot {
	if o.backup != nil {
		return fromBackup(*o.backup)
	}
	return fromSnapshot(*o.snapshot)
}

// read reads the snapshot or backup of an id. Kind NotFound: it is neither.
//
// If Cinder denies reading any backup, an id that is not a snapshot's counts as not found: with
// such credentials this driver makes no backup, and the deletion of a snapshot that is gone must
// succeed. If Cinder denies reading this backup only, the backup exists.
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
			return volume.Errorf(volume.KindNotFound, "Cinder knows no snapshot and no backup of this id")
		case c.ForbidsBackups(ctx, err):
			s.log.WarnContext(ctx, "Cinder knows no snapshot of an id and denies reading any backup: the id counts as gone",
				"id", id, "error", err,
				"remedy", "if a backup was made with other credentials, delete it with those: openstack volume backup delete "+id)
			return volume.Errorf(volume.KindNotFound,
				"Cinder knows no snapshot of this id and denies reading any backup: %s", err.Error())
		}
		return err
	}
	c, err := s.locator.Find(ctx, id, read)
	if err == nil && o.cloud == nil {
		err = read(ctx, c)
	}
	return o, err
}

// fromSnapshot returns a snapshot of Cinder as a CSI snapshot. It leaves out the fraction of a
// second, which only Cinder's answer to the creation has: the time of creation must not change.
func fromSnapshot(s cloud.Snapshot) volume.Snapshot {
	return volume.Snapshot{
		ID: s.ID, Name: s.Name, VolumeID: s.VolumeID, Size: volume.Size(s.Size) * volume.GiB,
		Created: s.CreatedAt.Truncate(time.Second), Ready: s.Status == state.Available,
	}
}

// fromBackup returns a backup as a CSI snapshot.
func fromBackup(b cloud.Backup) volume.Snapshot {
	return volume.Snapshot{
		ID: b.ID, Name: b.Name, VolumeID: b.VolumeID, Size: volume.Size(b.Size) * volume.GiB,
		Created: b.CreatedAt.Truncate(time.Second), Ready: b.Status == state.Available,
	}
}

// isOwn reports whether metadata are those of an object of this cluster.
func (s *Service) isOwn(m map[string]string) bool { return metadata.IsOfCluster(m, s.clusterID) }
