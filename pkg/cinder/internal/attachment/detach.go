package attachment

import (
	"context"
	"strings"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/poll"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Detach detaches the volume from the server, or from all servers. It succeeds when Cinder lists no
// attachment to the server, no request for one is running, and Nova does not have the volume there
// either. That the server does not exist is no proof: if Cinder still lists it, Detach removes the
// record, which Cinder allows only if Nova does not know the server. Kinds: InProgress (the server
// is busy or locked), Unavailable (the guest does not release the disk), Precondition (Cinder and
// Nova contradict each other; the state of the server), Deadline.
func (a Attachment) Detach(ctx context.Context) error {
	limited, cancel := poll.WithAnswerMargin(ctx)
	defer cancel()
	if a.ServerID == "" {
		return a.detachAll(limited)
	}
	err := a.detach(limited)
	if volume.IsKind(err, volume.KindDeadline) {
		err = a.addServerState(ctx, err)
	}
	return err
}

// detachAll detaches the volume from all servers, one after the other: Cinder detaches only one at
// a time.
func (a Attachment) detachAll(ctx context.Context) error {
	for {
		v, err := a.API.Volume(ctx, a.VolumeID)
		if volume.IsKind(err, volume.KindNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		servers, err := a.servers(ctx, v)
		if err != nil || len(servers) == 0 {
			return err
		}
		for server := range servers {
			one := a
			one.ServerID = server
			if err := one.detach(ctx); err != nil {
				return volume.Wrap(err, "detach from server "+server, a.VolumeID)
			}
		}
	}
}

// servers returns the servers that the volume is attached to, or being attached to or detached
// from.
func (a Attachment) servers(ctx context.Context, v cloud.Volume) (map[string]bool, error) {
	if len(v.Attachments) == 0 && isChanging(v) {
		var isStalled bool
		var err error
		v, isStalled, err = a.awaitShare(ctx, "settle", not(isChanging))
		if volume.IsKind(err, volume.KindNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if isStalled {
			return a.recordedServers(ctx, v)
		}
	}
	servers := make(map[string]bool)
	for _, at := range v.Attachments {
		servers[at.ServerID] = true
	}
	if servers[""] {
		return nil, volume.Errorf(volume.KindPrecondition,
			"the volume is attached to %s, which Nova cannot detach", describeServers(v)).
			WithRemedy("detach it where it was attached, or delete the attachment: " + listCommand(a.VolumeID))
	}
	return servers, nil
}

// recordedServers returns the servers of all attachment records, also of reservations, which Cinder
// does not show with the volume.
func (a Attachment) recordedServers(ctx context.Context, v cloud.Volume) (map[string]bool, error) {
	records, err := a.API.AttachmentRecords(ctx, a.VolumeID)
	if err != nil {
		return nil, err
	}
	servers := make(map[string]bool)
	for _, r := range records {
		if r.Instance != "" {
			servers[r.Instance] = true
		}
	}
	if len(servers) == 0 {
		return nil, volume.Errorf(volume.KindPrecondition,
			"the volume is %s, but Cinder has no record of a server for it", v.Status).
			WithRemedy("ask an administrator to run: " + resetCommand(a.VolumeID, state.Available))
	}
	return servers, nil
}

// detach is the loop of Detach: each turn judges the volume and makes one step.
func (a Attachment) detach(ctx context.Context) error {
	v, err := a.API.Volume(ctx, a.VolumeID)
	for requests := 0; ; {
		if volume.IsKind(err, volume.KindNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		isDetached := false
		switch {
		case isChanging(v):
			v, isDetached, err = a.resolveChange(ctx)
		case isListedOn(v, a.ServerID):
			if requests == maxRequests {
				return a.heldError(v)
			}
			if requests++; requests > 1 {
				err = operation.Sleep(ctx, poll.ShareOf(ctx)) // a guest that was busy may release the disk by then
			}
			if err == nil {
				v, err = a.release(ctx, v)
			}
		default:
			v, isDetached, err = a.checkNova(ctx, v)
		}
		if isDetached {
			return nil
		}
	}
}

// release asks Nova to detach the volume and waits until Nova has tried.
func (a Attachment) release(ctx context.Context, v cloud.Volume) (cloud.Volume, error) {
	if isBusy(v) {
		// Cinder detaches only volumes that are in-use.
		idle, isStalled, err := a.awaitShare(ctx, "settle", not(isBusy))
		if isStalled {
			return v, volume.Errorf(volume.KindInProgress,
				"the volume is still %s, but Cinder detaches it only after that", idle.Status)
		}
		if v = idle; err != nil || v.Status != state.InUse || !isListedOn(v, a.ServerID) {
			return v, err
		}
	}
	err := a.API.Detach(ctx, a.ServerID, a.VolumeID)
	switch {
	case err == nil:
		return a.await(ctx, "detach", not(isChanging))
	case volume.IsKind(err, volume.KindNotFound):
		return a.resolveUnknown(ctx, err)
	case volume.IsKind(err, volume.KindUnavailable), volume.IsKind(err, volume.KindPrecondition),
		volume.IsKind(err, volume.KindInvalid):
		// Nova may have accepted the request all the same, or another client was faster.
		now, errRead := a.API.Volume(ctx, a.VolumeID)
		if volume.IsKind(errRead, volume.KindNotFound) ||
			errRead == nil && (isChanging(now) || !isListedOn(now, a.ServerID)) {
			return now, errRead
		}
		if v.Status != state.InUse && errRead == nil {
			err = volume.Errorf(volume.KindPrecondition,
				"the volume is %s, but Cinder detaches only volumes that are in-use: %w", v.Status, err).
				WithRemedy("ask an administrator to run: " + resetCommand(a.VolumeID, state.InUse))
		}
	case volume.IsKind(err, volume.KindInProgress):
		err = a.conflictError(ctx, err)
	}
	return v, err
}

// resolveUnknown deals with a request of which Nova says that the server, the volume or the
// attachment does not exist. If Nova has the attachment, it is the volume that Nova does not find
// in Cinder, which proves nothing.
func (a Attachment) resolveUnknown(ctx context.Context, cause error) (cloud.Volume, error) {
	v, err := a.API.Volume(ctx, a.VolumeID)
	if err != nil || isChanging(v) || !isListedOn(v, a.ServerID) {
		return v, err
	}
	found, err := a.isInNova(ctx)
	if err != nil {
		return v, err
	}
	if found {
		return v, volume.Errorf(volume.KindUnavailable,
			"Cinder shows the volume %s, and Nova has it on server %s, but Nova does not find the volume: %w",
			v.Status, a.ServerID, cause).
			WithRemedy(remedyNovaCinder)
	}
	return a.removeOrphans(ctx, v, attachmentIDs(v, a.ServerID))
}

// removeOrphans deals with attachments to the server that only Cinder has: it removes them if the
// server does not exist, and returns an error otherwise. It returns the volume as read then.
func (a Attachment) removeOrphans(ctx context.Context, v cloud.Volume, ids []string) (cloud.Volume, error) {
	_, err := a.API.Server(ctx, a.ServerID)
	if err == nil {
		return v, a.onlyInCinderError(v)
	}
	if !volume.IsKind(err, volume.KindNotFound) {
		return v, err
	}
	for _, id := range ids {
		a.Log.WarnContext(ctx, "removing the attachment to a server that does not exist",
			"volume", a.VolumeID, "server", a.ServerID, "attachment", id)
		if err := a.API.DeleteAttachment(ctx, id); err != nil && !volume.IsKind(err, volume.KindNotFound) {
			return v, volume.Errorf(volume.KindPrecondition,
				"server %s does not exist, but Cinder shows the volume attached to it, and the attachment cannot be removed: %w",
				a.ServerID, err).
				WithRemedy("ask an administrator to run: " + deleteCommand(id))
		}
	}
	return a.API.Volume(ctx, a.VolumeID)
}

// resolveChange deals with a volume of which an attachment begins or ends. It reports isDetached if
// that attachment belongs to another server and this one does not have the volume.
func (a Attachment) resolveChange(ctx context.Context) (v cloud.Volume, isDetached bool, err error) {
	v, isStalled, err := a.awaitShare(ctx, "detach", not(isChanging))
	if err != nil || !isStalled {
		return v, false, err
	}
	found, err := a.isInNova(ctx)
	if err != nil {
		return v, false, err
	}
	if found {
		v, err = a.await(ctx, "detach", not(isChanging))
		return v, false, err
	}
	hasChanged, err := a.removeReservations(ctx)
	if err != nil {
		return v, false, err
	}
	if hasChanged {
		v, err = a.API.Volume(ctx, a.VolumeID)
		return v, false, err
	}
	records, err := a.API.AttachmentRecords(ctx, a.VolumeID)
	if err != nil || len(records) == 0 {
		return v, false, a.stalledError(ctx, v)
	}
	var ids []string
	for _, r := range records {
		if strings.EqualFold(r.Instance, a.ServerID) {
			ids = append(ids, r.ID)
		}
	}
	if len(ids) > 0 {
		v, err = a.removeOrphans(ctx, v, ids)
		return v, false, err
	}
	return v, true, nil
}

// checkNova reports whether Nova has forgotten the attachment too: Nova does so a little after
// Cinder, and refuses the next attachment until then. If Nova still has it, checkNova returns the
// volume as read after novaInterval: an attachment that begins looks the same for a moment.
func (a Attachment) checkNova(ctx context.Context, v cloud.Volume) (_ cloud.Volume, isDetached bool, err error) {
	found, err := a.isInNova(ctx)
	if err != nil || !found {
		return v, err == nil, err
	}
	if err := operation.Sleep(ctx, novaInterval); err != nil {
		return v, false, volume.Errorf(volume.KindOf(err),
			"Cinder shows the volume %s, but Nova still has it on server %s", v.Status, a.ServerID).
			WithRemedy(message.Retries + "; if it lasts, check: openstack server event list " + a.ServerID)
	}
	v, err = a.API.Volume(ctx, a.VolumeID)
	return v, false, err
}

// heldError is the error for a guest that does not release the disk.
func (a Attachment) heldError(v cloud.Volume) error {
	return volume.Errorf(volume.KindUnavailable,
		"Nova tried to unplug the disk from server %s and gave up: the volume is %s again; the guest does not release it",
		a.ServerID, v.Status).
		WithRemedy(message.Retries + "; check whether the guest hangs or still has the disk mounted, and run: " +
			"openstack server event list " + a.ServerID + "; if the server cannot be recovered, shut it off or delete it")
}
