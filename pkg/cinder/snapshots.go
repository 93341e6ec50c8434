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

// CreateSnapshot implements volume.Snapshotter. It returns when Cinder has taken
// the snapshot (CSI v1.13: the call blocks until the snapshot is cut), and no
// sooner: external-snapshotter keeps the first id that it gets for good, so a
// snapshot that may still fail must not get one. What fails before that is
// removed, and the retry takes another. With the type "backup" of the class it
// is a backup, see backup. Kinds beside those of the interface: Invalid
// (parameters), Exhausted (quota), Internal (Cinder failed to take it),
// InProgress, Deadline.
func (b *Backend) CreateSnapshot(ctx context.Context, req volume.SnapshotRequest) (volume.Snapshot, error) {
	inner, cancel := answerable(ctx)
	defer cancel()
	s, err := b.takeSnapshot(inner, req)
	if err == nil {
		b.snapshotAttempts.end(req.Name)
	}
	return s, volume.Wrap(b.snapshotAttempts.answer(req.Name, err), "snapshot", req.VolumeID)
}

func (b *Backend) takeSnapshot(ctx context.Context, req volume.SnapshotRequest) (volume.Snapshot, error) {
	var none volume.Snapshot
	class, errClass := b.snapshotClass(req.Parameters)
	c, err := b.cloudOf(ctx, req.VolumeID)
	if err != nil {
		return none, snapshotUnknown(err)
	}
	t := taking{b: b, cloud: c, name: req.Name, volumeID: req.VolumeID, class: class, accepted: req.NotifyAccepted}
	if errClass != nil {
		return none, t.refused(ctx, errClass)
	}
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

// snapshotUnknown returns an error that leaves open whether there is a snapshot
// of the request's name. Its kind is not final: after a final one nobody would
// come back for the snapshot.
func snapshotUnknown(err error) error {
	return volume.NonFinal(err, "it is not known whether the snapshot exists")
}

// refused returns the error of a request that the class makes impossible. It is not
// final while there is a snapshot of the name: an earlier call may have had it made
// with the class as it was then. The helper of a backup is one, too.
func (t taking) refused(ctx context.Context, err error) error {
	all, errNamed := t.named(ctx)
	switch {
	case len(all) > 0:
		return volume.NonFinal(err, "Cinder has the snapshot "+all[0].ID+" of this name")
	case errNamed != nil && !volume.IsKind(errNamed, volume.KindAlreadyExists):
		return snapshotUnknown(err)
	}
	return err
}

// taking is one request for a snapshot or backup.
type taking struct {
	b        *Backend
	cloud    *cloud.Cloud
	name     string
	volumeID string
	class    snapshotClass
	accepted func() // to be called when the volume may change again
}

func (t taking) snapshot(ctx context.Context) (volume.Snapshot, error) {
	s, err := t.cut(ctx, cloud.NewSnapshot{Description: description, Metadata: t.class.metadata})
	if err != nil {
		return volume.Snapshot{}, err
	}
	return domainSnapshot(s), nil
}

// cut returns the snapshot of the request's name that Cinder has taken. If there
// is none it asks for one, which is to be as in order, and waits. A snapshot of
// this cluster that Cinder failed to take, or that is being deleted, was never
// given to anybody: it goes first.
func (t taking) cut(ctx context.Context, order cloud.NewSnapshot) (cloud.Snapshot, error) {
	all, err := t.named(ctx)
	if err != nil {
		return cloud.Snapshot{}, snapshotUnknown(err)
	}
	var s cloud.Snapshot
	found := false
	for _, one := range all {
		switch {
		case one.Metadata[metaBackupOf] != order.Metadata[metaBackupOf]:
			return one, t.otherKind(one)
		case t.b.unmadeSnapshot(one) || one.Status == snapDeleting:
			if err := t.b.dropSnapshot(ctx, t.cloud, one); !volume.IsKind(err, volume.KindNotFound) {
				return one, remains("snapshot", one.ID, one.Status, err)
			}
		case !found:
			s, found = one, true
		}
	}
	if !found {
		if s, err = t.create(ctx, order); err != nil {
			return s, err
		}
	}
	t.b.noteCopy(t.volumeID, s.ID, copySnapshot)
	t.accepted()
	return t.awaitCut(ctx, s)
}

// otherKind is the error for a name that a snapshot of the other type has.
func (t taking) otherKind(s cloud.Snapshot) error {
	if s.Metadata[metaBackupOf] != "" {
		return volume.Errorf(volume.KindAlreadyExists, "snapshot %s has the name %s and is there only for the backup of that name", s.ID, t.name).
			WithRemedy("use another name, or the class that the backup was made with")
	}
	return volume.Errorf(volume.KindAlreadyExists, "snapshot %s has the name %s and is not one to make a backup from", s.ID, t.name).
		WithRemedy("use another name, or the class that the snapshot was made with")
}

// unmadeSnapshot reports whether a snapshot is what a creation of this cluster
// leaves when Cinder fails to take it.
func (b *Backend) unmadeSnapshot(s cloud.Snapshot) bool {
	return s.Status == snapError && isOfCluster(s.Metadata, b.opts.ClusterID)
}

// remains is the error for what an earlier attempt has left and what could not
// be removed. It is not of a final kind: after one nobody would come back for
// it, and it would keep the volume from its deletion.
func remains(what, id, status string, cause error) error {
	kind := volume.KindUnavailable
	if passes(cause) {
		kind = volume.KindOf(cause)
	}
	return volume.Errorf(kind, "an earlier attempt has left the %s %s in the state %s, which could not be removed: %w", what, id, status, cause)
}

// awaitCut waits until Cinder has taken the snapshot. One that it failed to take
// is removed, so that the retry starts clean.
func (t taking) awaitCut(ctx context.Context, s cloud.Snapshot) (cloud.Snapshot, error) {
	id := s.ID
	if s.Status == snapCreating {
		var err error
		s, err = awaitSnapshot(ctx, t.cloud, id, func(s cloud.Snapshot) bool { return s.Status != snapCreating })
		if volume.IsKind(err, volume.KindNotFound) {
			err = volume.Errorf(volume.KindInProgress, "the snapshot %s was deleted while it was made", id)
		}
		if err != nil {
			return s, snapshotUnknown(err)
		}
	}
	t.b.dropCopy(t.volumeID, id)
	switch s.Status {
	case snapError:
		return s, t.failed(ctx, s)
	case snapDeleting, snapErrorDeleting:
		return s, volume.Errorf(volume.KindInProgress, "a snapshot %s of this name is %s", id, s.Status).
			WithRemedy("Kubernetes retries this automatically; if it lasts, ask an administrator to delete it: openstack volume snapshot delete --force " + id)
	}
	return s, nil
}

// failed removes a snapshot that Cinder failed to take, if it is this cluster's,
// and returns the error that says why.
func (t taking) failed(ctx context.Context, s cloud.Snapshot) error {
	why := volume.Errorf(volume.KindInternal, "Cinder has failed to take the snapshot %s: %s", s.ID, t.b.snapshotReason(ctx, t.cloud, s))
	if !t.b.unmadeSnapshot(s) {
		return why.WithRemedy("delete the snapshot and take another")
	}
	if err := t.b.dropSnapshot(ctx, t.cloud, s); !volume.IsKind(err, volume.KindNotFound) {
		return volume.Errorf(volume.KindUnavailable, "%w; and it could not be removed: %s", why, err.Error()).
			WithRemedy("no action needed: Kubernetes retries this automatically and removes it then")
	}
	return why.WithRemedy("Kubernetes retries this automatically with a new snapshot; if it fails again, ask the operator of the cloud for the reason")
}

// snapshotReason is the last that Cinder has to say of a snapshot.
func (b *Backend) snapshotReason(ctx context.Context, c *cloud.Cloud, s cloud.Snapshot) string {
	return b.reasonOf(ctx, c, cloud.Volume{ID: s.ID, UpdatedAt: s.CreatedAt}, volume.KindInternal).text
}

// create asks Cinder for the snapshot.
func (t taking) create(ctx context.Context, order cloud.NewSnapshot) (cloud.Snapshot, error) {
	if !t.class.force {
		v, err := t.cloud.Volume(ctx, t.volumeID)
		if err != nil {
			return cloud.Snapshot{}, err
		}
		if v.Status == stateInUse {
			return cloud.Snapshot{}, volume.Errorf(volume.KindPrecondition, "the volume is in use, and the class says %s=false", paramForce).
				WithRemedy("stop the pods that use it, or remove " + paramForce + " from the VolumeSnapshotClass")
		}
	}
	order.Name, order.VolumeID, order.Force = t.name, t.volumeID, t.class.force
	s, err := t.cloud.CreateSnapshot(ctx, order)
	if err != nil && cloud.MayBeDone(err) {
		t.b.snapshotAttempts.addLost(t.name)
	}
	return s, full(err)
}

// full gives "no room for it" the kind that CSI has for snapshots, which know
// no size that could be lowered (CSI v1.13, CreateSnapshot errors).
func full(err error) error {
	if !volume.IsKind(err, volume.KindOutOfRange) {
		return err
	}
	return volume.Errorf(volume.KindExhausted, "%w", err)
}

// named returns the volume's snapshots of the request's name, the oldest first.
// Kind AlreadyExists: there are such of other volumes only.
func (t taking) named(ctx context.Context) ([]cloud.Snapshot, error) {
	all, err := t.cloud.SnapshotsNamed(ctx, t.name)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	oldestFirst(all, func(s cloud.Snapshot) (time.Time, string) { return s.CreatedAt, s.ID })
	first := all[0]
	all = slices.DeleteFunc(all, func(s cloud.Snapshot) bool { return s.VolumeID != t.volumeID })
	if len(all) == 0 {
		return nil, t.other(first.ID, first.VolumeID)
	}
	return all, nil
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
	return volume.Errorf(volume.KindAlreadyExists, "%s has the name %s and is of volume %s", id, t.name, volumeID).
		WithRemedy("use another name, or delete the snapshot")
}

// domainSnapshot leaves out the fraction of a second that only Cinder's answer
// to the creation has: a snapshot has one time of creation.
func domainSnapshot(s cloud.Snapshot) volume.Snapshot {
	return volume.Snapshot{
		ID: s.ID, Name: s.Name, VolumeID: s.VolumeID, Size: volume.Size(s.Size) * volume.GiB,
		Created: s.CreatedAt.Truncate(time.Second), Ready: s.Status == snapAvailable,
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
// Where Cinder forbids to read any backup, an id that is no snapshot's counts as
// gone: with such credentials this driver makes no backup, and a snapshot whose
// deletion is asked for once more must not stay for ever. A refusal of just this
// backup proves that it exists.
func (b *Backend) kept(ctx context.Context, id string) (kept, error) {
	var k kept
	read := func(ctx context.Context, c *cloud.Cloud) error {
		s, err := c.Snapshot(ctx, id)
		if err == nil {
			k = kept{cloud: c, snapshot: &s}
			return nil
		}
		if !volume.IsKind(err, volume.KindNotFound) {
			return err
		}
		backup, err := c.Backup(ctx, id)
		switch {
		case err == nil:
			k = kept{cloud: c, backup: &backup}
		case volume.IsKind(err, volume.KindNotFound):
			return volume.Errorf(volume.KindNotFound, "Cinder knows no snapshot and no backup of this id")
		case c.ForbidsBackups(ctx, err):
			b.log.WarnContext(ctx, "Cinder knows no snapshot of an id, and forbids to read any backup: the id counts as gone", "id", id, "error", err,
				"remedy", "if a backup was made with other credentials, delete it with those: openstack volume backup delete "+id)
			return volume.Errorf(volume.KindNotFound, "Cinder knows no snapshot of this id, and forbids to read any backup: %s", err.Error())
		}
		return err
	}
	c, err := b.locate(ctx, id, read)
	if err == nil && k.cloud == nil {
		err = read(ctx, c)
	}
	return k, err
}
