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

// finish waits until the volume is usable and checks its zone and multiattach against the request.
// It removes a volume that Cinder failed to create, so that the retry can create another. It also
// removes a volume that differs from the request, if no pod can have used it and its source exists.
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
		reason := message.VolumeReason(ctx, k.log, k.cloud, v, volume.KindInternal)
		failure = volume.Errorf(reason.Kind,
			"Cinder failed to create volume %s (status %s): %s", v.ID, v.Status, reason.Text).
			WithRemedy("check the reason; if the storage has no space, request a smaller volume, " +
				"or use another volume type or zone in the StorageClass")
	case v.Status == state.Deleting:
		return v, volume.Errorf(volume.KindUnavailable, "volume %s was created, but is being deleted", v.ID).
			WithRemedy(message.NoAction)
	case k.isAsRequested(v):
		return v, k.restoreMetadata(ctx, v)
	default:
		// If the source is gone, the volume may be the only copy of its data.
		isRemovable = isRemovable && checkSource(ctx, k.cloud, k.req.Source) == nil
		failure = k.mismatchError(v, isRemovable)
	}
	if !isRemovable {
		return v, failure
	}
	if err := k.remove(ctx, v); err != nil {
		return v, volume.Errorf(volume.KindUnavailable, "%w; the driver cannot remove it: %s", failure, err.Error()).
			WithRemedy(message.NoAction)
	}
	return v, failure
}

// isAsRequested reports whether a usable volume is in an allowed zone, and allows multiattach if
// the request needs it.
func (k *creation) isAsRequested(v cloud.Volume) bool {
	return k.zones.allows(v.AvailabilityZone) && (v.Multiattach || !isForSeveralNodes(k.req.Accesses))
}

// mismatchError is the error for a usable volume for which isAsRequested is false. isRemoved says
// that the driver removes the volume.
//
// A volume is in a zone that the request does not allow if its pod was scheduled to another zone
// after the creation began, for instance because its node is gone. If the driver does not remove
// the volume, a pod may have used it before this process started: then the kind must not let
// Kubernetes schedule the pod again (Exhausted) or forget the claim.
func (k *creation) mismatchError(v cloud.Volume, isRemoved bool) error {
	zones := fmt.Sprintf("volume %s is in the zone %s, but the request allows only %s",
		v.ID, v.AvailabilityZone, message.JoinAtMost(k.zones.allowed))
	switch {
	case !k.zones.allows(v.AvailabilityZone) && isRemoved:
		return volume.Errorf(volume.KindExhausted, "%s; the driver removes the volume", zones).
			WithRemedy(message.IfPersists + "schedule the pod to the zone of the volume's source, " +
				"where Cinder creates the volume")
	case !k.zones.allows(v.AvailabilityZone):
		return volume.Errorf(volume.KindUnavailable,
			"%s; the driver keeps the volume, because it may be in use or hold data", zones).
			WithRemedy("allow the pod to be scheduled to the zone " + v.AvailabilityZone +
				" (remove the annotation volume.kubernetes.io/selected-node of the claim when a node there can run the pod); " +
				"or, if the data of the volume are not needed, delete it: openstack volume delete " + v.ID)
	case isRemoved:
		return volume.Errorf(volume.KindInvalid,
			"the claim needs several nodes, but the type %s of volume %s does not allow multiattach", v.VolumeType, v.ID).
			WithRemedy(remedyMultiattach)
	}
	return volume.Errorf(volume.KindAlreadyExists,
		"volume %s of this name exists, but its type %s does not allow multiattach", v.ID, v.VolumeType).
		WithRemedy(existingRemedy(v))
}

// restoreMetadata writes the requested metadata of a volume that was restored from a backup again,
// because cinder-backup overwrites them with those of the backup's volume. Otherwise the volume
// might not belong to this cluster, and would count as encrypted if the backup's volume was.
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

// pollOperation returns the operation for the poller, whose estimates depend on the kind of source.
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
				"cannot remove volume %s (status %s), which an earlier attempt left behind: %w", v.ID, v.Status, err)
		}
	}
	return nil
}

// remove deletes a volume of the requested name, waits until it is gone, and forgets it.
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
