package attachment

import (
	"context"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/poll"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Attach attaches the volume to the server and returns it as read then. It succeeds when Cinder
// lists a completed attachment to this server and Nova has it too: Nova has accepted it in this
// call, or shows it. A volume that cannot or must not be shared may be attached to one server in
// any access mode. Kinds: NotFound (of the server or volume, as Nova or Cinder says so), InProgress
// (the server is busy or locked), Precondition (attached elsewhere; states that do not end by
// themselves), Exhausted (the server takes no more volumes), Internal (Nova gave up), Unavailable
// (Nova does not find what Cinder shows), Deadline.
func (a Attachment) Attach(ctx context.Context) (cloud.Volume, error) {
	limited, cancel := poll.WithAnswerMargin(ctx)
	defer cancel()
	v, err := a.attach(limited)
	if volume.IsKind(err, volume.KindDeadline) {
		err = a.addServerState(ctx, err)
	}
	return v, err
}

// attach is the loop of Attach: each turn judges the volume and makes one step.
func (a Attachment) attach(ctx context.Context) (cloud.Volume, error) {
	v, err := a.API.Volume(ctx, a.VolumeID)
	if err == nil {
		err = a.checkMultiattach(ctx, v)
	}
	isConfirmed := false // Nova is known to have the attachment
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
			v, isConfirmed, err = a.resolveReservation(ctx)
		case stageDetaching, stageBusy:
			isConfirmed = false
			v, err = a.awaitIdle(ctx)
		case stageDetached:
			if requests++; requests > maxRequests {
				return v, volume.Errorf(volume.KindInProgress,
					"Nova was asked %d times to attach the volume, but it is %s again each time", maxRequests, v.Status).
					WithRemedy(message.Retries + "; check whether something else detaches the volume")
			}
			v, isConfirmed, err = a.request(ctx, v)
		}
	}
	return v, err
}

// novaInterval is the time between reads of Nova while it and Cinder do not agree.
const novaInterval = 500 * time.Millisecond

// awaitIdle waits until the volume is neither detaching nor busy.
func (a Attachment) awaitIdle(ctx context.Context) (cloud.Volume, error) {
	v, isStalled, err := a.awaitShare(ctx, "settle", func(v cloud.Volume) bool {
		s := a.stageOf(v)
		return s != stageDetaching && s != stageBusy
	})
	if isStalled {
		err = volume.Errorf(volume.KindInProgress, "the volume is still %s", v.Status).
			WithRemedy(message.Retries + "; if it lasts, check: openstack volume show " + a.VolumeID +
				"; openstack server event list " + a.ServerID)
	}
	return v, err
}

// checkMultiattach returns an error if the cloud is too old for the volume: older releases of Nova
// refuse volumes that can be shared, also for the first server. Kind Precondition.
func (a Attachment) checkMultiattach(ctx context.Context, v cloud.Volume) error {
	if !v.Multiattach {
		return nil
	}
	err := a.API.CheckFeature(ctx, cloud.FeatureMultiattach)
	if volume.IsKind(err, volume.KindUnsupported) {
		return volume.Errorf(volume.KindPrecondition,
			"the volume can be shared, but this cloud does not attach such volumes: %w", err)
	}
	return err
}

// confirm asks Nova whether it has the attachment that Cinder lists.
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

// onlyInCinderError is the error for an attachment that only Cinder has. The driver does not remove
// it: the hypervisor may still have the disk, and a second attachment would write to it from two
// servers.
func (a Attachment) onlyInCinderError(v cloud.Volume) error {
	return volume.Errorf(volume.KindPrecondition,
		"Cinder shows the volume %s with an attachment to server %s, but Nova has no such attachment", v.Status, a.ServerID).
		WithRemedy("make sure that the server does not have the disk, then remove the attachment: " +
			listCommand(a.VolumeID) + "; " + deleteCommand("ATTACHMENT"))
}

// request asks Nova to attach the volume and waits for the result. If it returns no error and the
// volume is not attached, the volume has changed in between.
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
		// Nova may have accepted the request although the answer was lost.
		if found, errNova := a.isInNova(ctx); errNova == nil && found {
			v, err = a.awaitAttached(ctx)
			return v, true, err
		}
	case volume.KindNotFound:
		v, err = a.notFoundError(ctx, v, err)
	case volume.KindPrecondition, volume.KindInvalid:
		if now, errRead := a.API.Volume(ctx, a.VolumeID); errRead == nil && a.stageOf(now) != stageDetached {
			return now, false, nil
		}
	case volume.KindInProgress:
		err = a.conflictError(ctx, err)
	case volume.KindExhausted:
		err = volume.Errorf(volume.KindExhausted, "server %s takes no more volumes: %w", a.ServerID, err).
			WithRemedy("lower the node's limit of volumes (--max-volumes of growvol-node) to what the server takes, " +
				"so that Kubernetes schedules pods to other nodes")
	default:
	}
	return v, false, err
}

// remedyNovaCinder is the next step when Nova does not find a volume that Cinder shows.
const remedyNovaCinder = "check that nova-api reaches the same Cinder " +
	"(section [cinder] of nova.conf: catalog_info, os_region_name)"

// notFoundError returns the error for a request of which Nova says that the server or the volume
// does not exist. That proves nothing about the volume: Nova gives the same answer when it cannot
// reach Cinder, or uses another one. It returns the volume as read last.
func (a Attachment) notFoundError(ctx context.Context, v cloud.Volume, cause error) (cloud.Volume, error) {
	if _, err := a.API.Server(ctx, a.ServerID); err != nil {
		return v, serverError(err)
	}
	now, err := a.API.Volume(ctx, a.VolumeID)
	if err != nil {
		return v, err
	}
	return now, volume.Errorf(volume.KindUnavailable,
		"Cinder shows the volume %s, and Nova shows the server, but Nova does not find one of them: %w", now.Status, cause).
		WithRemedy(remedyNovaCinder)
}

// serverError turns "no such server" into what it means to the caller; other errors stay.
func serverError(err error) error {
	if !volume.IsKind(err, volume.KindNotFound) {
		return err
	}
	return volume.Errorf(volume.KindNotFound, "the node does not exist: %w", err).
		WithRemedy("make sure that the node id is the id of a server of this cloud and project")
}

// awaitAttached waits for the end of an attachment that Nova has begun.
func (a Attachment) awaitAttached(ctx context.Context) (cloud.Volume, error) {
	for {
		v, err := a.await(ctx, "attach", func(v cloud.Volume) bool {
			s := a.stageOf(v)
			return s != stageAttaching && s != stageBusy
		})
		if err != nil || a.stageOf(v) == stageAttached {
			return v, err
		}
		// The volume looks as before the request. Nova forgets an attachment that has failed; one
		// that it still has is on its way.
		found, err := a.isInNova(ctx)
		if err != nil {
			return v, err
		}
		if !found {
			return v, a.givenUpError(ctx, v)
		}
		if err := operation.Sleep(ctx, novaInterval); err != nil {
			return v, volume.Errorf(volume.KindOf(err),
				"Nova has the volume on server %s, but Cinder shows it %s", a.ServerID, v.Status).
				WithRemedy(message.Retries + "; if it lasts, remove the volume from the server: openstack server remove volume " +
					a.ServerID + " " + a.VolumeID)
		}
	}
}

// givenUpError is the error for an attachment that Nova accepted and gave up.
func (a Attachment) givenUpError(ctx context.Context, v cloud.Volume) error {
	if a.stageOf(v) == stageAttachedElsewhere {
		return a.elsewhereError(ctx, v)
	}
	reason := message.Finder{Log: a.Log}.OfVolume(ctx, a.API, v, volume.KindInternal)
	return volume.Errorf(volume.KindInternal,
		"Nova accepted the attachment, but gave it up: the volume is %s; %s", v.Status, reason.Text).
		WithRemedy(message.Retries + "; check the cause in the log of nova-compute and with: openstack server event list " +
			a.ServerID)
}

// elsewhereError is the error for a volume that other servers have. A server that does not exist
// any more does not release the volume by itself.
func (a Attachment) elsewhereError(ctx context.Context, v cloud.Volume) error {
	for _, server := range state.Servers(v) {
		if _, err := a.API.Server(ctx, server); volume.IsKind(err, volume.KindNotFound) {
			return volume.Errorf(volume.KindPrecondition,
				"Cinder shows the volume attached to server %s, which does not exist any more", server).
				WithRemedy("if that server's Node object still exists, delete it: Kubernetes then detaches the volume; " +
					"or by hand: " + listCommand(a.VolumeID) + "; " + deleteCommand("ATTACHMENT"))
		}
	}
	return volume.Errorf(volume.KindPrecondition,
		"the volume is attached to %s, but it must not be shared", describeServers(v)).
		WithRemedy("stop the pod that uses it there; for a node that is down, " +
			"see \"Non-graceful node shutdown\" in the documentation of Kubernetes")
}

// unusableError is the error for a volume in a state that does not end by itself.
func unusableError(v cloud.Volume) error {
	err := volume.Errorf(volume.KindPrecondition, "the volume is %s, which does not end by itself", v.Status)
	switch v.Status {
	case state.Deleting, state.ErrorDeleting:
		return err.WithRemedy("use another volume: this one is being deleted, or Cinder failed to delete it")
	case state.InUse:
		return volume.Errorf(volume.KindPrecondition, "the volume is in-use, but Cinder lists no attachment of it").
			WithRemedy("ask an administrator to run: cinder reset-state --attach-status detached --state available " + v.ID)
	}
	return err.WithRemedy("check the cause with: openstack volume message list; then ask an administrator to reset it: " +
		resetCommand(v.ID, state.Available))
}
