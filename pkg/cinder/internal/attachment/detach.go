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
// attachment to the server, no request for one is running, and Nova has no attachment to it either;
// also if the volume does not exist. If Cinder lists an attachment to a server that does not exist,
// Detach deletes the record, which Cinder allows only if Nova does not have the attachment. Kinds:
// InProgress (the server is busy or locked, or another request for the volume is running),
// Unavailable (the guest does not release the disk), Precondition (Cinder and Nova contradict each
// other, or a state forbids it).
func (a Attachment) Detach(ctx context.Context) error {
	limited, cancel := withServerMargin(ctx)
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

// detachAll detaches the volume from all servers, one after the other, because Cinder does not
// detach from two servers at the same time.
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

// servers returns the ids of the servers that have the volume. If Cinder lists none while an
// attachment is beginning or ending, servers waits for its end; if that takes too long, it returns
// the servers of all attachment records.
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
			"the volume is attached to %s, from which Nova cannot detach it", describeServers(v)).
			WithRemedy("detach the volume on that host, or find and delete the attachment: " +
				listCommand(a.VolumeID) + "; " + deleteCommand("ATTACHMENT"))
	}
	return servers, nil
}

// recordedServers returns the ids of the servers of all attachment records. Unlike the volume, the
// records include reservations. Kind Precondition: there is none.
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
			"the volume has the status %s, but Cinder has no attachment record with a server", v.Status).
			WithRemedy("ask the cloud operator to run: " + resetCommand(a.VolumeID, state.Available))
	}
	return servers, nil
}

// detach is the loop of Detach for one server: each iteration checks the volume and makes one step.
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
			v, isDetached, err = a.awaitChange(ctx)
		case isListedOn(v, a.ServerID):
			if requests == maxRequests {
				return a.heldError(v)
			}
			if requests++; requests > 1 {
				err = operation.Sleep(ctx, poll.ShareOf(ctx)) // meanwhile a busy guest may become able to release the disk
			}
			if err == nil {
				v, err = a.release(ctx, v)
			}
		default:
			v, isDetached, err = a.confirmDetached(ctx, v)
		}
		if isDetached {
			return nil
		}
	}
}

// release asks Nova to detach the volume and waits until Nova has completed or given up the
// attempt.
func (a Attachment) release(ctx context.Context, v cloud.Volume) (cloud.Volume, error) {
	if isBusy(v) {
		// Cinder detaches only volumes that are in-use.
		idle, isStalled, err := a.awaitShare(ctx, "settle", not(isBusy))
		if isStalled {
			return v, volume.Errorf(volume.KindInProgress,
				"the volume still has the status %s, but Cinder detaches only volumes that are in-use", idle.Status).
				WithRemedy(message.NoAction)
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
		return a.rereadAfterNotFound(ctx, err)
	case volume.IsKind(err, volume.KindUnavailable), volume.IsKind(err, volume.KindPrecondition),
		volume.IsKind(err, volume.KindInvalid):
		// Nova may have accepted the request, or another client was faster.
		current, errRead := a.API.Volume(ctx, a.VolumeID)
		if volume.IsKind(errRead, volume.KindNotFound) ||
			errRead == nil && (isChanging(current) || !isListedOn(current, a.ServerID)) {
			return current, errRead
		}
		if v.Status != state.InUse && errRead == nil {
			err = volume.Errorf(volume.KindPrecondition,
				"the volume has the status %s, but Cinder detaches only volumes that are in-use: %w", v.Status, err).
				WithRemedy("ask the cloud operator to run: " + resetCommand(a.VolumeID, state.InUse))
		}
	case volume.IsKind(err, volume.KindInProgress):
		err = a.conflictError(ctx, err)
	}
	return v, err
}

// rereadAfterNotFound reads the volume again after Nova responded to a request that the server, the
// volume or the attachment does not exist. If Cinder still lists an attachment that Nova lacks, it
// is an orphan. If Nova has the attachment, Nova does not find the volume in Cinder, which proves
// nothing (kind Unavailable).
func (a Attachment) rereadAfterNotFound(ctx context.Context, cause error) (cloud.Volume, error) {
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
			"Cinder shows the volume (status %s) and Nova shows its attachment to server %s, but Nova does not find the "+
				"volume: %w",
			v.Status, a.ServerID, cause).
			WithRemedy(remedyNovaCinder)
	}
	return a.removeOrphans(ctx, v, attachmentIDs(v, a.ServerID))
}

// removeOrphans deletes attachments to the server that only Cinder has, and returns the volume as
// read then. Kind Precondition: the server exists, or Cinder refuses the deletion.
func (a Attachment) removeOrphans(ctx context.Context, v cloud.Volume, ids []string) (cloud.Volume, error) {
	_, err := a.API.Server(ctx, a.ServerID)
	if err == nil {
		return v, a.onlyInCinderError(v)
	}
	if !volume.IsKind(err, volume.KindNotFound) {
		return v, err
	}
	for _, id := range ids {
		a.Log.WarnContext(ctx, "deleting the attachment to a server that does not exist",
			"volume", a.VolumeID, "server", a.ServerID, "attachment", id)
		if err := a.API.DeleteAttachment(ctx, id); err != nil && !volume.IsKind(err, volume.KindNotFound) {
			return v, volume.Errorf(volume.KindPrecondition,
				"server %s does not exist, but its attachment %s cannot be deleted: %w", a.ServerID, id, err).
				WithRemedy("ask the cloud operator to run: " + deleteCommand(id))
		}
	}
	return a.API.Volume(ctx, a.VolumeID)
}

// awaitChange waits until the attachment that is beginning or ending is complete. If that takes too
// long and Nova does not have the attachment to this server, awaitChange deletes the reservations
// and attachments to this server that Nova lacks. It reports isDetached if only other servers have
// attachment records.
func (a Attachment) awaitChange(ctx context.Context) (v cloud.Volume, isDetached bool, err error) {
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

// confirmDetached reports isDetached if Nova does not have the attachment either. Nova deletes its
// record a little after Cinder, and refuses the next attachment until then. If Nova still has the
// attachment, which may also be beginning, confirmDetached returns the volume as read after
// novaInterval.
func (a Attachment) confirmDetached(ctx context.Context, v cloud.Volume) (_ cloud.Volume, isDetached bool, err error) {
	found, err := a.isInNova(ctx)
	if err != nil || !found {
		return v, err == nil, err
	}
	if err := operation.Sleep(ctx, novaInterval); err != nil {
		return v, false, volume.Errorf(volume.KindOf(err),
			"Cinder lists no attachment to server %s (status %s), but Nova still has it", a.ServerID, v.Status).
			WithRemedy(message.IfPersists + "check: openstack server event list " + a.ServerID)
	}
	v, err = a.API.Volume(ctx, a.VolumeID)
	return v, false, err
}

// heldError is the error for a disk that the guest does not release.
func (a Attachment) heldError(v cloud.Volume) error {
	return volume.Errorf(volume.KindUnavailable,
		"Nova tried to detach the disk from server %s, but the guest does not release it: the volume has the status %s again",
		a.ServerID, v.Status).
		WithRemedy(message.IfPersists + "check whether the guest hangs or still has the disk mounted: " +
			"openstack server event list " + a.ServerID + "; if the server cannot be recovered, shut it off or delete it")
}
