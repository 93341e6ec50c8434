package cinder

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// Statuses of snapshots and backups that matter here; of the others Cinder
// will be done with by itself.
const (
	snapCreating      = "creating"
	snapAvailable     = "available"
	snapError         = "error"
	snapDeleting      = "deleting"
	snapErrorDeleting = "error_deleting"
)

// CreateSnapshot implements volume.Snapshotter. The snapshot is Ready when
// Cinder says so, which later calls find out: this one does not wait for it.
// With the type "backup" of the class it is a backup, see createBackup. Kinds
// beside those of the interface: Invalid (parameters), Exhausted (quota),
// Internal (Cinder has failed to take it), InProgress.
func (b *Backend) CreateSnapshot(ctx context.Context, req volume.SnapshotRequest) (volume.Snapshot, error) {
	s, err := b.takeSnapshot(ctx, req)
	return s, volume.Wrap(err, "snapshot", req.VolumeID)
}

func (b *Backend) takeSnapshot(ctx context.Context, req volume.SnapshotRequest) (volume.Snapshot, error) {
	var none volume.Snapshot
	class, err := b.snapshotClass(req.Parameters)
	if err != nil {
		return none, err
	}
	c, err := b.cloudOf(ctx, req.VolumeID)
	if err != nil {
		return none, err
	}
	t := taking{b: b, cloud: c, name: req.Name, volumeID: req.VolumeID, class: class}
	var s volume.Snapshot
	if class.backup {
		s, err = t.backup(ctx)
	} else {
		s, err = t.snapshot(ctx)
	}
	if err == nil {
		b.settle(s.ID, c.Name())
	}
	return s, err
}

// taking is one request for a snapshot or backup.
type taking struct {
	b        *Backend
	cloud    *cloud.Cloud
	name     string
	volumeID string
	class    snapshotClass
}

func (t taking) snapshot(ctx context.Context) (volume.Snapshot, error) {
	var none volume.Snapshot
	s, found, err := t.named(ctx)
	if err != nil {
		return none, err
	}
	if found && s.Metadata[metaBackupOf] != "" {
		return none, volume.Errorf(volume.AlreadyExists, "snapshot %s has the name %s and is there only for the backup of that name", s.ID, t.name).
			WithRemedy("use another name, or the class that the backup was made with")
	}
	if !found {
		if s, err = t.create(ctx, t.class.metadata, description); err != nil {
			return none, err
		}
	}
	return t.b.taken(ctx, t.cloud, s)
}

// taken is the result for a snapshot that exists.
func (b *Backend) taken(ctx context.Context, c *cloud.Cloud, s cloud.Snapshot) (volume.Snapshot, error) {
	switch s.Status {
	case snapError:
		return volume.Snapshot{}, volume.Errorf(volume.Internal, "Cinder has failed to take the snapshot %s: %s", s.ID, b.snapshotReason(ctx, c, s)).
			WithRemedy("delete the snapshot and take another")
	case snapDeleting, snapErrorDeleting:
		return volume.Snapshot{}, volume.Errorf(volume.InProgress, "a snapshot %s of this name is %s", s.ID, s.Status).
			WithRemedy("it will be retried; if it stays like this, an administrator has to remove it")
	}
	return domainSnapshot(s), nil
}

// snapshotReason is the last that Cinder has to say of a snapshot.
func (b *Backend) snapshotReason(ctx context.Context, c *cloud.Cloud, s cloud.Snapshot) string {
	return b.reasonOf(ctx, c, cloud.Volume{ID: s.ID, Updated: s.Created}, volume.Internal).text
}

// create asks Cinder for the snapshot.
func (t taking) create(ctx context.Context, metadata map[string]string, description string) (cloud.Snapshot, error) {
	if !t.class.force {
		v, err := t.cloud.Volume(ctx, t.volumeID)
		if err != nil {
			return cloud.Snapshot{}, err
		}
		if v.Status == stateInUse {
			return cloud.Snapshot{}, volume.Errorf(volume.Precondition, "the volume is in use, and the class says %s=false", paramForce).
				WithRemedy("stop the pods that use it, or remove " + paramForce + " from the VolumeSnapshotClass")
		}
	}
	s, err := t.cloud.CreateSnapshot(ctx, cloud.NewSnapshot{
		Name: t.name, Description: description, VolumeID: t.volumeID, Metadata: metadata, Force: t.class.force,
	})
	return s, full(err)
}

// full gives "no room for it" the kind that CSI has for snapshots, which know
// no size that could be lowered (CSI v1.13, CreateSnapshot errors).
func full(err error) error {
	if !volume.IsKind(err, volume.OutOfRange) {
		return err
	}
	return volume.Errorf(volume.Exhausted, "%w", err)
}

// named looks for the snapshot of the request's name. Kind AlreadyExists: it is
// of another volume.
func (t taking) named(ctx context.Context) (s cloud.Snapshot, found bool, err error) {
	all, err := t.cloud.SnapshotsNamed(ctx, t.name)
	if err != nil || len(all) == 0 {
		return s, false, err
	}
	oldestFirst(all, func(s cloud.Snapshot) (time.Time, string) { return s.Created, s.ID })
	i := slices.IndexFunc(all, func(s cloud.Snapshot) bool { return s.VolumeID == t.volumeID })
	if i < 0 {
		return s, false, t.other(all[0].ID, all[0].VolumeID)
	}
	return all[i], true, nil
}

// oldestFirst makes repeated calls settle on the same one of several objects of
// a name, as a lost answer may have left them.
func oldestFirst[T any](all []T, born func(T) (time.Time, string)) {
	slices.SortFunc(all, func(a, b T) int {
		at, aid := born(a)
		bt, bid := born(b)
		return cmp.Or(at.Compare(bt), cmp.Compare(aid, bid))
	})
}

// other is the error for a name that an object of another volume has.
func (t taking) other(id, volumeID string) error {
	return volume.Errorf(volume.AlreadyExists, "%s has the name %s and is of volume %s", id, t.name, volumeID).
		WithRemedy("use another name, or delete the snapshot")
}

// domainSnapshot leaves out the fraction of a second that only Cinder's answer
// to the creation has: a snapshot has one time of creation.
func domainSnapshot(s cloud.Snapshot) volume.Snapshot {
	return volume.Snapshot{
		ID: s.ID, Name: s.Name, VolumeID: s.VolumeID, Size: volume.Size(s.SizeGiB) * volume.GiB,
		Created: s.Created.Truncate(time.Second), Ready: s.Status == snapAvailable,
	}
}

// GetSnapshot implements volume.Snapshotter. The id may be that of a backup.
func (b *Backend) GetSnapshot(ctx context.Context, id string) (volume.Snapshot, error) {
	k, err := b.kept(ctx, id)
	if err != nil {
		return volume.Snapshot{}, volume.Wrap(err, "get snapshot", id)
	}
	return k.domain(), nil
}

// kept is what a snapshot's id stands for: one of the two is set.
type kept struct {
	cloud    *cloud.Cloud
	snapshot *cloud.Snapshot
	backup   *cloud.Backup
}

func (k kept) domain() volume.Snapshot {
	if k.backup != nil {
		return domainBackup(*k.backup)
	}
	return domainSnapshot(*k.snapshot)
}

// kept reads the snapshot or backup of an id. Kind NotFound: it is neither.
func (b *Backend) kept(ctx context.Context, id string) (kept, error) {
	var k kept
	read := func(ctx context.Context, c *cloud.Cloud) error {
		s, err := c.Snapshot(ctx, id)
		if err == nil {
			k = kept{cloud: c, snapshot: &s}
			return nil
		}
		if !volume.IsKind(err, volume.NotFound) {
			return err
		}
		backup, err := c.Backup(ctx, id)
		if err == nil {
			k = kept{cloud: c, backup: &backup}
		}
		if volume.IsKind(err, volume.NotFound) {
			return volume.Errorf(volume.NotFound, "Cinder knows no snapshot and no backup of this id")
		}
		return err
	}
	c, err := b.locate(ctx, id, read)
	if err == nil && k.cloud == nil {
		err = read(ctx, c)
	}
	return k, err
}
