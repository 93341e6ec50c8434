package snapshot

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/copies"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/poll"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
)

// CreateSnapshot implements volume.Snapshotter: it returns the snapshot of the request's name, and
// creates it if necessary. It returns only when Cinder has taken the snapshot (CSI v1.13: the call
// blocks until the snapshot is cut): external-snapshotter keeps the first id that it gets, so
// CreateSnapshot must not return the id of a snapshot that may still fail. CreateSnapshot removes a
// snapshot that Cinder failed to take, and the retry takes another. For backups see
// creation.backup. Kinds: AlreadyExists (the name belongs to another volume, or to a snapshot of
// another type), Invalid (parameters), Exhausted (quota), Precondition (the volume is in use, which
// the class forbids), InProgress.
func (s *Service) CreateSnapshot(ctx context.Context, req volume.SnapshotRequest) (volume.Snapshot, error) {
	out, err := s.create(ctx, req)
	if err == nil {
		s.attempts.End(req.Name)
	}
	return out, volume.Wrap(s.attempts.Answer(req.Name, err), "create a snapshot of volume", req.VolumeID)
}

func (s *Service) create(ctx context.Context, req volume.SnapshotRequest) (out volume.Snapshot, err error) {
	class, errClass := class.ParseSnapshot(req.Parameters, s.clusterID)
	c, err := s.locator.Volume(ctx, req.VolumeID)
	if err != nil {
		return out, unknownError(err)
	}
	k := creation{Service: s, cloud: c, req: req, class: class}
	switch {
	case errClass != nil:
		return out, k.classError(ctx, errClass)
	case class.IsBackup:
		out, err = k.backup(ctx)
	default:
		out, err = k.snapshot(ctx)
	}
	if err == nil {
		s.locator.Remember(out.ID, c.Name())
	}
	return out, err
}

// unknownError returns err as a non-final error, for use while it is not known whether a snapshot
// of the request's name exists: after a final error external-snapshotter would not retry.
func unknownError(err error) error {
	return volume.NonFinal(err, "cannot determine whether the snapshot exists")
}

// creation is one request for a snapshot or backup.
type creation struct {
	*Service
	cloud *cloud.Cloud
	req   volume.SnapshotRequest
	class class.Snapshot
}

// classError returns err, which says that the class is invalid, as a non-final error if a snapshot
// of the name exists or may exist: an earlier call may have created it, or the helper snapshot of a
// backup, before the class was changed.
func (k creation) classError(ctx context.Context, err error) error {
	found, errFind := k.findByName(ctx)
	switch {
	case len(found) > 0:
		return volume.NonFinal(err, "Cinder has snapshot "+found[0].ID+" with this name")
	case errFind != nil && !volume.IsKind(errFind, volume.KindAlreadyExists):
		return unknownError(err)
	}
	return err
}

func (k creation) snapshot(ctx context.Context) (volume.Snapshot, error) {
	s, err := k.take(ctx, cloud.NewSnapshot{Description: metadata.Description, Metadata: k.class.Metadata})
	if err != nil {
		return volume.Snapshot{}, err
	}
	return fromSnapshot(s), nil
}

// take returns the snapshot of the request's name when Cinder has taken it. If there is none, take
// requests one with the description and metadata of opts. It first removes this cluster's snapshots
// that Cinder failed to take, and those that Cinder is deleting: no call has returned their ids.
func (k creation) take(ctx context.Context, opts cloud.NewSnapshot) (cloud.Snapshot, error) {
	all, err := k.findByName(ctx)
	if err != nil {
		return cloud.Snapshot{}, unknownError(err)
	}
	var s cloud.Snapshot
	found := false
	for _, one := range all {
		switch {
		case one.Metadata[metadata.BackupOf] != opts.Metadata[metadata.BackupOf]:
			return one, k.otherTypeError(one)
		case k.isFailedCreation(one) || one.Status == state.Deleting:
			if err := k.deleteSnapshot(ctx, k.cloud, one); !volume.IsKind(err, volume.KindNotFound) {
				return one, leftoverError("snapshot", one.ID, one.Status, err)
			}
		case !found:
			s, found = one, true
		}
	}
	if !found {
		if s, err = k.request(ctx, opts); err != nil {
			return s, err
		}
	}
	k.copies.Add(k.req.VolumeID, s.ID, copies.Snapshot)
	k.req.NotifyAccepted()
	return k.awaitTaken(ctx, s)
}

// otherTypeError is the error for a name that is taken by a snapshot for the other purpose: a plain
// snapshot, or the helper of a backup.
func (k creation) otherTypeError(s cloud.Snapshot) error {
	if s.Metadata[metadata.BackupOf] != "" {
		return volume.Errorf(volume.KindAlreadyExists,
			"snapshot %s has the name %s, but exists only for the backup of that name", s.ID, k.req.Name).
			WithRemedy("use the VolumeSnapshotClass that created the backup, or recreate the VolumeSnapshot to get a new name")
	}
	return volume.Errorf(volume.KindAlreadyExists,
		"snapshot %s has the name %s, but was not taken for a backup", s.ID, k.req.Name).
		WithRemedy("use the VolumeSnapshotClass that created the snapshot, or recreate the VolumeSnapshot to get a new name")
}

// isFailedCreation reports whether a snapshot was left behind by a failed creation of this cluster.
func (s *Service) isFailedCreation(snapshot cloud.Snapshot) bool {
	return snapshot.Status == state.Error && s.isOwn(snapshot.Metadata)
}

// leftoverError is the error for an object that a failed attempt left behind and that cannot be
// removed. The error is not final: after a final error no call would remove the object, which
// prevents the deletion of the volume.
func leftoverError(object, id, status string, cause error) error {
	return volume.Errorf(nonFinalKind(cause),
		"cannot remove %s %s (status %s), which an earlier attempt left behind: %w", object, id, status, cause)
}

// awaitTaken waits until Cinder has taken the snapshot. If Cinder fails to take it, awaitTaken
// removes it, so that the retry takes another.
func (k creation) awaitTaken(ctx context.Context, s cloud.Snapshot) (cloud.Snapshot, error) {
	id := s.ID
	if s.Status == state.Creating {
		var err error
		s, err = poll.AwaitSnapshot(ctx, k.cloud, id, state.Creating)
		if volume.IsKind(err, volume.KindNotFound) {
			err = volume.Errorf(volume.KindInProgress, "the snapshot %s was deleted while Cinder was taking it", id)
		}
		if err != nil {
			return s, unknownError(err)
		}
	}
	k.copies.Remove(k.req.VolumeID, id)
	switch s.Status {
	case state.Error:
		return s, k.removeFailed(ctx, s)
	case state.Deleting, state.ErrorDeleting:
		return s, volume.Errorf(volume.KindInProgress, "snapshot %s of this name has the status %s", id, s.Status).
			WithRemedy(message.IfPersists + "ask the cloud operator to run: " +
				"openstack volume snapshot delete --force " + id)
	}
	return s, nil
}

// removeFailed removes a snapshot that Cinder failed to take, if it belongs to this cluster. It
// returns the error with Cinder's reason.
func (k creation) removeFailed(ctx context.Context, s cloud.Snapshot) error {
	failure := volume.Errorf(volume.KindInternal,
		"Cinder failed to take the snapshot %s: %s", s.ID, message.SnapshotReason(ctx, k.log, k.cloud, s))
	if !k.isFailedCreation(s) {
		return failure.WithRemedy("delete the snapshot and take another: openstack volume snapshot delete " + s.ID)
	}
	if err := k.deleteSnapshot(ctx, k.cloud, s); !volume.IsKind(err, volume.KindNotFound) {
		return volume.Errorf(volume.KindUnavailable, "%w; the driver cannot remove it: %s", failure, err.Error()).
			WithRemedy(message.NoAction)
	}
	return failure.WithRemedy(
		"Kubernetes retries this automatically with a new snapshot; if it fails again, ask the cloud operator for the cause")
}

// request asks Cinder for the snapshot.
func (k creation) request(ctx context.Context, opts cloud.NewSnapshot) (cloud.Snapshot, error) {
	if !k.class.Force {
		v, err := k.cloud.Volume(ctx, k.req.VolumeID)
		if err != nil {
			return cloud.Snapshot{}, err
		}
		if v.Status == state.InUse {
			return cloud.Snapshot{}, volume.Errorf(volume.KindPrecondition,
				"the volume is in use, but the VolumeSnapshotClass has %s=false", class.ParamForce).
				WithRemedy("stop the pods that use it, or remove " + class.ParamForce + " from the VolumeSnapshotClass")
		}
	}
	opts.Name, opts.VolumeID, opts.Force = k.req.Name, k.req.VolumeID, k.class.Force
	s, err := k.cloud.CreateSnapshot(ctx, opts)
	return s, k.requestError(err)
}

// requestError returns the error of a request to create an object. If Cinder may carry out the
// request all the same, requestError records that. For an exceeded quota it changes the kind to
// Exhausted, as CSI v1.13 (CreateSnapshot Errors) requires: a snapshot has no size to lower.
func (k creation) requestError(err error) error {
	if err != nil && cloud.MayBeDone(err) {
		k.attempts.AddLost(k.req.Name)
	}
	if volume.IsKind(err, volume.KindOutOfRange) {
		return volume.Errorf(volume.KindExhausted, "%w", err)
	}
	return err
}

// findByName returns the volume's snapshots of the request's name, the oldest first. Kind
// AlreadyExists: only other volumes have snapshots of that name.
func (k creation) findByName(ctx context.Context) ([]cloud.Snapshot, error) {
	all, err := k.cloud.SnapshotsNamed(ctx, k.req.Name)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	sortByAge(all, func(s cloud.Snapshot) (time.Time, string) { return s.CreatedAt, s.ID })
	first := all[0]
	all = slices.DeleteFunc(all, func(s cloud.Snapshot) bool { return s.VolumeID != k.req.VolumeID })
	if len(all) == 0 {
		return nil, k.otherVolumeError(first.ID, first.VolumeID)
	}
	return all, nil
}

// sortByAge sorts objects of one name, the oldest first, so that all calls use the same one. A lost
// response can leave several.
func sortByAge[T any](all []T, age func(T) (created time.Time, id string)) {
	slices.SortFunc(all, func(x, y T) int {
		createdX, idX := age(x)
		createdY, idY := age(y)
		return cmp.Or(createdX.Compare(createdY), cmp.Compare(idX, idY))
	})
}

// otherVolumeError is the error for a name that is taken by an object of another volume.
func (k creation) otherVolumeError(id, volumeID string) error {
	return volume.Errorf(volume.KindAlreadyExists,
		"%s has the name %s, but belongs to volume %s", id, k.req.Name, volumeID).
		WithRemedy("if nothing uses " + id + ", delete it; otherwise recreate the VolumeSnapshot to get a new name")
}

// endsByItself reports whether a retry may succeed without the help of a person.
func endsByItself(err error) bool {
	return volume.IsKind(err, volume.KindDeadline) || volume.IsKind(err, volume.KindInProgress) ||
		volume.IsKind(err, volume.KindUnavailable)
}

// nonFinalKind returns the kind of err if it ends by itself, else Unavailable.
func nonFinalKind(err error) volume.Kind {
	if endsByItself(err) {
		return volume.KindOf(err)
	}
	return volume.KindUnavailable
}
