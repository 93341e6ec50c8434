package cinder

import (
	"context"
	"fmt"
	"maps"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
)

// finish waits until the volume is usable and checks that it is what the request asks for. It
// removes a volume that Cinder failed to create, so that the retry starts clean. It also removes
// one that Cinder created otherwise than demanded, if nobody can have used it.
func (k *creation) finish(ctx context.Context, v cloud.Volume) (cloud.Volume, error) {
	v, err := k.pollers.Await(ctx, k.cloud, v.ID, k.pollOperation(), state.IsIdle)
	if err != nil {
		return v, err
	}
	isRemovable := k.attempts.HasMade(k.req.Name, v.ID)
	var failure error
	switch {
	case state.HasFailed(v):
		isRemovable = isRemovable || state.IsFailedCreation(v) && k.isOwn(v)
		reason := k.reasons.OfVolume(ctx, k.cloud, v, volume.KindInternal)
		failure = volume.Errorf(reason.Kind,
			"Cinder could not create the volume %s, which is in the state %s: %s", v.ID, v.Status, reason.Text).
			WithRemedy("check the reason; if the storage has no space, ask for less or use another type or zone")
	case v.Status == state.Deleting:
		return v, volume.Errorf(volume.KindUnavailable, "the volume %s was created, but is being deleted", v.ID).
			WithRemedy(message.NoAction)
	case k.isAsDemanded(v):
		return v, k.restoreMetadata(ctx, v)
	default:
		// If the source is gone, a copy may be all that is left of it.
		isRemovable = isRemovable && checkSource(ctx, k.cloud, k.req.Source) == nil
		failure = k.mismatchError(v, isRemovable)
	}
	if !isRemovable {
		return v, failure
	}
	if err := k.remove(ctx, v); err != nil {
		return v, volume.Errorf(volume.KindUnavailable, "%w; and it could not be removed: %s", failure, err.Error()).
			WithRemedy(message.NoAction + " and removes it then")
	}
	return v, failure
}

// isAsDemanded reports whether a usable volume is in an allowed zone and may be attached to as many
// nodes as the request demands.
func (k *creation) isAsDemanded(v cloud.Volume) bool {
	return k.place.allows(v.AvailabilityZone) && (v.Multiattach || !isForSeveralNodes(k.req.Accesses))
}

// mismatchError is the error for a usable volume that is not as demanded. isRemoved: the driver is
// about to remove it.
//
// A volume in a zone that the request does not allow belongs to a pod that was scheduled to another
// zone in between, for instance because its node is gone. If the volume stays, a pod may have
// used it before this process started; then the kind must not make Kubernetes schedule the pod
// again (Exhausted) or forget the claim.
func (k *creation) mismatchError(v cloud.Volume, isRemoved bool) error {
	position := fmt.Sprintf("the volume %s is in the zone %s, but must be reachable from %s",
		v.ID, v.AvailabilityZone, message.JoinAtMost(k.place.allowed))
	switch {
	case !k.place.allows(v.AvailabilityZone) && isRemoved:
		return volume.Errorf(volume.KindExhausted, "%s", position).
			WithRemedy("no action needed: the driver removes it and Kubernetes retries this automatically; " +
				"if it lasts, schedule the pod to the zone of the volume's source, where Cinder creates the volume")
	case !k.place.allows(v.AvailabilityZone):
		return volume.Errorf(volume.KindUnavailable,
			"%s; the driver keeps it, because it may be in use elsewhere or hold data", position).
			WithRemedy("let the pod be scheduled to the zone " + v.AvailabilityZone +
				" (remove the annotation volume.kubernetes.io/selected-node of the claim when a node there can take the pod); " +
				"or, if nobody needs the volume, delete it: openstack volume delete " + v.ID)
	case isRemoved:
		return volume.Errorf(volume.KindInvalid,
			"the volume is to be used on several nodes, but %s has the type %s, which does not allow that", v.ID, v.VolumeType).
			WithRemedy(remedyMultiattach)
	}
	return volume.Errorf(volume.KindAlreadyExists,
		"the volume %s of this name exists, but its type %s does not allow its use on several nodes", v.ID, v.VolumeType).
		WithRemedy("use another name, or delete the volume")
}

// restoreMetadata writes the metadata of a volume that was made from a backup again: cinder-backup
// replaces them by those of the volume that the backup is of, so that the volume would not count as
// one of this cluster, and would count as encrypted if that volume was.
func (k *creation) restoreMetadata(ctx context.Context, v cloud.Volume) error {
	if cloud.BackupIDOf(v) == "" {
		return nil
	}
	want := maps.Clone(k.want.Metadata)
	if isEncrypted(v) && !k.req.Encrypted {
		want[metadata.Encrypted] = "false"
	}
	if len(metadata.Missing(v.Metadata, want)) == 0 {
		return nil
	}
	return k.cloud.SetVolumeMetadata(ctx, v.ID, want)
}

// pollOperation names the operation for the poller: how long it takes depends on the source.
func (k *creation) pollOperation() string {
	switch {
	case k.req.Source.VolumeID != "":
		return "clone"
	case k.req.Source.SnapshotID != "":
		return "restore"
	}
	return "create"
}

// removeLeftovers removes the volumes of the name that failed creations left behind.
func (k *creation) removeLeftovers(ctx context.Context, leftovers []cloud.Volume) error {
	for _, v := range leftovers {
		if err := k.remove(ctx, v); err != nil {
			return volume.Errorf(volume.KindOf(err),
				"an earlier attempt has left the volume %s in the state %s, and it could not be removed: %w", v.ID, v.Status, err)
		}
	}
	return nil
}

// remove deletes a volume of the name and waits until it is gone.
func (k *creation) remove(ctx context.Context, v cloud.Volume) error {
	if err := k.delete(ctx, k.cloud, v.ID); err != nil && !volume.IsKind(err, volume.KindNotFound) {
		return err
	}
	k.forget(v.ID)
	k.copies.Remove(k.sourceID(), v.ID)
	k.attempts.RemoveMade(k.req.Name, v.ID)
	delete(k.known, v.ID)
	return nil
}
