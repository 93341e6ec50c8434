package cinder

import (
	"context"
	"fmt"
	"maps"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// finish waits until the volume is usable and is what was asked for. One that
// Cinder failed to make is removed, so that the retry starts clean. So is one
// that it made otherwise than demanded, if nobody can have used it.
func (k *creation) finish(ctx context.Context, v cloud.Volume) (cloud.Volume, error) {
	v, err := k.await(ctx, k.cloud, v.ID, k.op(), func(v cloud.Volume) (bool, error) {
		return settled(v) || failed(v) || v.Status == stateDeleting, nil
	})
	if err != nil {
		return v, err
	}
	removable := k.attempts.hasMade(k.req.Name, v.ID)
	var why error
	switch {
	case failed(v):
		removable = removable || unmade(v) && k.marked(v)
		r := k.reasonOf(ctx, k.cloud, v, volume.KindInternal)
		why = volume.Errorf(r.kind, "Cinder could not make the volume %s, which is in the state %s: %s", v.ID, v.Status, r.text).
			WithRemedy("see the reason; if it is for lack of room, ask for less or use another type or zone")
	case v.Status == stateDeleting:
		return v, volume.Errorf(volume.KindUnavailable, "the volume %s is being deleted while it is made", v.ID).WithRemedy("no action needed: Kubernetes retries this automatically")
	case k.place.fits(v.AvailabilityZone) && (v.Multiattach || !shared(k.req.Accesses)):
		return v, k.mark(ctx, v)
	default:
		removable = removable && k.canBeMadeAnew(ctx)
		why = k.misfit(v, removable)
	}
	if !removable {
		return v, why
	}
	if err := k.discard(ctx, v); err != nil {
		return v, volume.Errorf(volume.KindUnavailable, "%w; and it could not be removed: %s", why, err.Error()).
			WithRemedy("no action needed: Kubernetes retries this automatically and removes it then")
	}
	return v, why
}

// canBeMadeAnew reports whether nothing is lost with the volume: a copy can be
// all that is left of its source.
func (k *creation) canBeMadeAnew(ctx context.Context) bool {
	return readSource(ctx, k.cloud, k.req.Source) == nil
}

// misfit is the error for a usable volume that is not where, or not as, the
// request demands it. removable: it is about to be removed.
//
// A volume in a zone that the request does not allow is one whose pod was
// scheduled to another zone meanwhile, because its node has gone for instance.
// If it stays, somebody may have used it before this process was started. Then
// no kind is right that has the pod scheduled anew (Exhausted) or the claim
// forgotten.
func (k *creation) misfit(v cloud.Volume, removable bool) error {
	where := fmt.Sprintf("the volume %s is in the zone %s, and it has to be reachable from %s", v.ID, v.AvailabilityZone, few(k.place.allowed))
	switch {
	case !k.place.fits(v.AvailabilityZone) && removable:
		return volume.Errorf(volume.KindExhausted, "%s", where).
			WithRemedy("no action needed: it is removed, and Kubernetes retries this automatically; if it lasts, a volume with a source is in the source's zone: schedule the pod there")
	case !k.place.fits(v.AvailabilityZone):
		return volume.Errorf(volume.KindUnavailable, "%s; it is kept, because it may be in use elsewhere or hold data", where).
			WithRemedy("let the pod be scheduled to the zone " + v.AvailabilityZone + " (remove the annotation volume.kubernetes.io/selected-node of the claim when a node there can take the pod); " +
				"or, if nothing needs the volume, delete it: openstack volume delete " + v.ID)
	case removable:
		return volume.Errorf(volume.KindInvalid, "the volume is to be used on several nodes, and %s of the type %s may not be", v.ID, v.VolumeType).WithRemedy(remedyMultiattach)
	}
	return volume.Errorf(volume.KindAlreadyExists, "the volume %s of this name exists and may not be used on several nodes, because its type %s does not allow that", v.ID, v.VolumeType).
		WithRemedy("use another name, or delete the volume")
}

// mark gives a volume that was made from a backup its metadata once more:
// cinder-backup replaces them by those of the volume that the backup was taken
// of, and without the mark it would not be one of this cluster. Whether that
// volume was encrypted must not stay either.
func (k *creation) mark(ctx context.Context, v cloud.Volume) error {
	if cloud.BackupIDOf(v) == "" {
		return nil
	}
	metadata := maps.Clone(k.want.metadata)
	if encrypted(v) && !k.req.Encrypted {
		metadata[metaEncrypted] = "false"
	}
	for key, value := range metadata {
		if v.Metadata[key] != value {
			return k.cloud.SetVolumeMetadata(ctx, v.ID, metadata)
		}
	}
	return nil
}

// op names the work for the poller: how long it takes hangs on the source.
func (k *creation) op() string {
	switch {
	case k.req.Source.VolumeID != "":
		return "clone"
	case k.req.Source.SnapshotID != "":
		return "restore"
	}
	return "create"
}

// discardLeftovers removes what failed creations have left of the name.
func (k *creation) discardLeftovers(ctx context.Context, leftovers []cloud.Volume) error {
	for _, v := range leftovers {
		if err := k.discard(ctx, v); err != nil {
			return volume.Errorf(volume.KindOf(err), "an earlier attempt has left the volume %s in the state %s, which could not be removed: %w", v.ID, v.Status, err)
		}
	}
	return nil
}

// discard deletes a volume and waits until it is gone.
func (k *creation) discard(ctx context.Context, v cloud.Volume) error {
	if err := k.remove(ctx, k.cloud, v.ID); err != nil && !volume.IsKind(err, volume.KindNotFound) {
		return err
	}
	k.forget(v.ID)
	k.dropCopy(k.sourceID(), v.ID)
	k.attempts.dropMade(k.req.Name, v.ID)
	delete(k.known, v.ID)
	return nil
}
