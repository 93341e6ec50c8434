package attachment

import (
	"context"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Attach attaches the volume to the server and returns the volume as read then. It succeeds when
// Cinder lists a completed attachment to this server and Nova has the attachment too: Nova accepted
// the request of this call, or shows the attachment. Unless the volume allows multiattach and
// Shared is set, only one server may have it. Kinds: NotFound (Nova says that the server, or Cinder
// that the volume, does not exist), InProgress (the server is busy or locked, or another request
// for the volume is running), Precondition (attached elsewhere; a state that does not end by
// itself), Exhausted (the server takes no more volumes), Internal (Nova gave up the attachment),
// Unavailable (Nova does not find what Cinder shows).
func (a Attachment) Attach(ctx context.Context) (cloud.Volume, error) {
	limited, cancel := withServerMargin(ctx)
	defer cancel()
	v, err := a.attach(limited)
	if volume.IsKind(err, volume.KindDeadline) {
		err = a.addServerState(ctx, err)
	}
	return v, err
}

// attach is the loop of Attach: each iteration determines the stage and makes one step.
func (a Attachment) attach(ctx context.Context) (cloud.Volume, error) {
	v, err := a.API.Volume(ctx, a.VolumeID)
	if err == nil {
		err = a.checkMultiattach(ctx, v)
	}
	isConfirmed := false // Nova has accepted or shown the attachment
	for requests := 0; err == nil; {
		switch a.stageOf(v) {
		case stageAttached:
			if !isConfirmed {
				err = a.confirm(ctx, v)
			}
			return v, err
		case stageAttachedElsewhere:
			err = a.elsewhereError(ctx, v)
		case stageFailed:
			err = unusableError(v)
		case stageAttaching:
			v, isConfirmed, err = a.awaitReservation(ctx)
		case stageDetaching, stageBusy:
			isConfirmed = false
			v, err = a.awaitIdle(ctx)
		case stageDetached:
			if requests++; requests > maxRequests {
				return v, volume.Errorf(volume.KindInProgress,
					"the driver requested the attachment %d times, but the volume has the status %s again", maxRequests, v.Status).
					WithRemedy(message.IfPersists + "check whether another client detaches the volume: " +
						"openstack server event list " + a.ServerID)
			}
			v, isConfirmed, err = a.request(ctx, v)
		}
	}
	return v, err
}

// novaInterval is the time between reads while Nova and Cinder do not agree.
const novaInterval = 500 * time.Millisecond

// awaitIdle waits until the volume is neither detaching nor busy.
func (a Attachment) awaitIdle(ctx context.Context) (cloud.Volume, error) {
	v, isStalled, err := a.awaitShare(ctx, "settle", func(v cloud.Volume) bool {
		s := a.stageOf(v)
		return s != stageDetaching && s != stageBusy
	})
	if isStalled {
		err = volume.Errorf(volume.KindInProgress, "the volume still has the status %s", v.Status).
			WithRemedy(message.IfPersists + "check: openstack volume show " + a.VolumeID +
				"; openstack server event list " + a.ServerID)
	}
	return v, err
}

// checkMultiattach returns an error if the volume allows multiattach but Nova is too old for that:
// such a Nova refuses the volume even for the first server. Kind Precondition.
func (a Attachment) checkMultiattach(ctx context.Context, v cloud.Volume) error {
	if !v.Multiattach {
		return nil
	}
	err := a.API.CheckFeature(ctx, cloud.FeatureMultiattach)
	if volume.IsKind(err, volume.KindUnsupported) {
		return volume.Errorf(volume.KindPrecondition,
			"the volume allows multiattach, but this cloud does not attach such volumes: %w", err).
			WithRemedy("use a volume type without multiattach in the StorageClass")
	}
	return err
}

// confirm returns an error unless Nova has the attachment that Cinder lists.
func (a Attachment) confirm(ctx context.Context, v cloud.Volume) error {
	found, err := a.isInNova(ctx)
	if err != nil || found {
		return err
	}
	if _, err := a.API.Server(ctx, a.ServerID); err != nil {
		return serverError(err)
	}
	return a.onlyInCinderError(v)
}

// onlyInCinderError is the error for an attachment to an existing server that only Cinder has. The
// driver does not remove it: the hypervisor may still have the disk, and after another attachment
// two servers would write to the disk.
func (a Attachment) onlyInCinderError(v cloud.Volume) error {
	return volume.Errorf(volume.KindPrecondition,
		"Cinder lists an attachment to server %s (status %s), but Nova has no such attachment", a.ServerID, v.Status).
		WithRemedy("make sure that the server does not have the disk, then find and delete the attachment: " +
			listCommand(a.VolumeID) + "; " + deleteCommand("ATTACHMENT"))
}

// request asks Nova to attach the volume and waits for the result. If request returns a volume that
// is not attached without an error, another operation has changed the volume. isConfirmed says that
// Nova has accepted or shown the attachment.
func (a Attachment) request(ctx context.Context, v cloud.Volume) (_ cloud.Volume, isConfirmed bool, err error) {
	err = a.API.Attach(ctx, a.ServerID, a.VolumeID, v.Multiattach)
	if err == nil {
		v, err = a.awaitAttached(ctx)
		return v, true, err
	}
	switch volume.KindOf(err) {
	case volume.KindAlreadyExists:
		v, err = a.awaitAttached(ctx)
		return v, false, err
	case volume.KindUnavailable:
		// Nova may have accepted the request although its response was lost.
		if found, errNova := a.isInNova(ctx); errNova == nil && found {
			v, err = a.awaitAttached(ctx)
			return v, true, err
		}
	case volume.KindNotFound:
		v, err = a.notFoundError(ctx, v, err)
	case volume.KindPrecondition, volume.KindInvalid:
		if current, errRead := a.API.Volume(ctx, a.VolumeID); errRead == nil && a.stageOf(current) != stageDetached {
			return current, false, nil
		}
	case volume.KindInProgress:
		err = a.conflictError(ctx, err)
	case volume.KindExhausted:
		err = volume.Errorf(volume.KindExhausted, "server %s takes no more volumes: %w", a.ServerID, err).
			WithRemedy("set --max-volumes of growvol-node to the number of volumes that the server takes, " +
				"so that Kubernetes schedules pods to other nodes")
	default:
	}
	return v, false, err
}

// remedyNovaCinder is the next step when Nova does not find a volume that Cinder shows.
const remedyNovaCinder = "check that nova-api reaches the same Cinder " +
	"(section [cinder] of nova.conf: catalog_info, os_region_name)"

// notFoundError returns the error for a request to which Nova responded that the server or the
// volume does not exist. That proves nothing about the volume: Nova responds the same when it
// cannot reach Cinder, or uses another Cinder. It also returns the volume as last read.
func (a Attachment) notFoundError(ctx context.Context, v cloud.Volume, cause error) (cloud.Volume, error) {
	if _, err := a.API.Server(ctx, a.ServerID); err != nil {
		return v, serverError(err)
	}
	current, err := a.API.Volume(ctx, a.VolumeID)
	if err != nil {
		return v, err
	}
	return current, volume.Errorf(volume.KindUnavailable,
		"Cinder shows the volume (status %s) and Nova shows the server, but Nova does not find one of them: %w",
		current.Status, cause).
		WithRemedy(remedyNovaCinder)
}

// serverError adds what a missing server means for Kubernetes to an error of kind NotFound. It
// returns other errors as they are.
func serverError(err error) error {
	if !volume.IsKind(err, volume.KindNotFound) {
		return err
	}
	return volume.Errorf(volume.KindNotFound, "the node does not exist: %w", err).
		WithRemedy("make sure that the CSINode's nodeID is the id of a server in this cloud and project")
}

// awaitAttached waits until an attachment that Nova has begun is complete. Kind Internal: Nova gave
// it up.
func (a Attachment) awaitAttached(ctx context.Context) (cloud.Volume, error) {
	for {
		v, err := a.await(ctx, "attach", func(v cloud.Volume) bool {
			s := a.stageOf(v)
			return s != stageAttaching && s != stageBusy
		})
		if err != nil || a.stageOf(v) == stageAttached {
			return v, err
		}
		// Cinder shows the volume as before the request. Nova drops a failed attachment; an
		// attachment that Nova still has may yet be completed.
		found, err := a.isInNova(ctx)
		if err != nil {
			return v, err
		}
		if !found {
			return v, a.givenUpError(ctx, v)
		}
		if err := operation.Sleep(ctx, novaInterval); err != nil {
			return v, volume.Errorf(volume.KindOf(err),
				"Nova has the attachment to server %s, but Cinder does not list it (status %s)", a.ServerID, v.Status).
				WithRemedy(message.IfPersists + "remove the volume from the server: " +
					"openstack server remove volume " +
					a.ServerID + " " + a.VolumeID)
		}
	}
}

// givenUpError is the error for an attachment that Nova accepted but did not complete.
func (a Attachment) givenUpError(ctx context.Context, v cloud.Volume) error {
	if a.stageOf(v) == stageAttachedElsewhere {
		return a.elsewhereError(ctx, v)
	}
	reason := message.VolumeReason(ctx, a.Log, a.API, v, volume.KindInternal)
	return volume.Errorf(volume.KindInternal,
		"Nova accepted the attachment, but gave it up: the volume has the status %s; %s", v.Status, reason.Text).
		WithRemedy(message.IfPersists + "look for the cause in the log of nova-compute and with: " +
			"openstack server event list " + a.ServerID)
}

// elsewhereError is the error for a volume that is attached to other servers. If one of them no
// longer exists, the remedy differs: nothing releases the volume by itself then.
func (a Attachment) elsewhereError(ctx context.Context, v cloud.Volume) error {
	for _, server := range state.Servers(v) {
		if _, err := a.API.Server(ctx, server); volume.IsKind(err, volume.KindNotFound) {
			return volume.Errorf(volume.KindPrecondition,
				"Cinder shows the volume attached to server %s, which does not exist any more", server).
				WithRemedy("if that server's Node object still exists, delete it: Kubernetes then detaches the volume; " +
					"otherwise find and delete the attachment: " + listCommand(a.VolumeID) + "; " + deleteCommand("ATTACHMENT"))
		}
	}
	return volume.Errorf(volume.KindPrecondition,
		"the volume is attached to %s and cannot be attached to a second server", describeServers(v)).
		WithRemedy("delete the pod that uses the volume there; for a node that is down, " +
			"see \"Non-graceful node shutdown\" in the documentation of Kubernetes")
}

// unusableError is the error for a volume in a state that does not end by itself.
func unusableError(v cloud.Volume) error {
	err := volume.Errorf(volume.KindPrecondition, "the volume has the status %s, which does not change by itself",
		v.Status)
	switch v.Status {
	case state.Deleting, state.ErrorDeleting:
		return err.WithRemedy("use another volume: this volume is being deleted, or Cinder failed to delete it")
	case state.InUse:
		return volume.Errorf(volume.KindPrecondition,
			"the volume has the status in-use, but Cinder lists no attachment of it").
			WithRemedy("ask the cloud operator to run: cinder reset-state --attach-status detached --state available " + v.ID)
	}
	return err.WithRemedy(
		"check the cause with: openstack volume message list; then ask the cloud operator to reset the state: " +
			resetCommand(v.ID, state.Available))
}
