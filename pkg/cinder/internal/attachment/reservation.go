package attachment

import (
	"context"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
)

// awaitReservation waits until a volume is no longer reserved or attaching. If Nova has the
// attachment to this server, an earlier call began it, and awaitReservation waits until it is
// complete. Otherwise another client's request is running, or a failed request left the volume
// reserved: if the wait takes too long, awaitReservation removes the reservations for this server.
func (a Attachment) awaitReservation(ctx context.Context) (v cloud.Volume, isConfirmed bool, err error) {
	found, err := a.isInNova(ctx)
	if err != nil {
		return v, false, err
	}
	if found {
		v, err = a.awaitAttached(ctx)
		return v, true, err
	}
	v, isStalled, err := a.awaitShare(ctx, "settle", func(v cloud.Volume) bool { return a.stageOf(v) != stageAttaching })
	if err != nil || !isStalled {
		return v, false, err
	}
	hasChanged, err := a.removeReservations(ctx)
	switch {
	case err != nil:
	case hasChanged:
		v, err = a.API.Volume(ctx, a.VolumeID)
	default:
		err = a.stalledError(ctx, v)
	}
	return v, false, err
}

// removeReservations deletes the reservations for this server if Nova does not have the attachment.
// It reports hasChanged if the volume must be read again: it deleted reservations, or Nova now has
// the attachment.
//
// The deletion is safe: Nova records an attachment before Cinder reserves the volume, and deletes
// the record after Cinder has released the volume. So a reservation that existed before Nova
// denied the attachment is unused; and a reservation alone gives no host access to the volume.
func (a Attachment) removeReservations(ctx context.Context) (hasChanged bool, err error) {
	records, err := a.API.AttachmentRecords(ctx, a.VolumeID)
	if err != nil {
		if volume.IsKind(err, volume.KindUnsupported) {
			return false, nil
		}
		return false, err
	}
	records = slices.DeleteFunc(records, func(r cloud.AttachmentRecord) bool {
		return !strings.EqualFold(r.Instance, a.ServerID) || r.Status != state.Reserved
	})
	if len(records) == 0 {
		return false, nil
	}
	if found, err := a.isInNova(ctx); err != nil || found {
		return found, err
	}
	for _, r := range records {
		a.Log.WarnContext(ctx, "deleting the reservation that a failed attachment left behind",
			"volume", a.VolumeID, "server", a.ServerID, "attachment", r.ID)
		if err := a.API.DeleteAttachment(ctx, r.ID); err != nil && !volume.IsKind(err, volume.KindNotFound) {
			return false, volume.Errorf(volume.KindOf(err),
				"cannot delete reservation %s of the volume for server %s, which Nova does not have: %w", r.ID, a.ServerID, err).
				WithRemedy("ask the cloud operator to run: " + deleteCommand(r.ID))
		}
	}
	return true, nil
}

// stalledError is the error for a volume that stays reserved, attaching or detaching although no
// attachment to this server is beginning or ending.
func (a Attachment) stalledError(ctx context.Context, v cloud.Volume) error {
	records, err := a.API.AttachmentRecords(ctx, a.VolumeID)
	if err != nil || len(records) == 0 {
		return volume.Errorf(volume.KindInProgress,
			"the volume has the status %s, but Nova has no attachment to server %s", v.Status, a.ServerID).
			WithRemedy(message.IfPersists + "find and delete the attachment that no server has: " +
				listCommand(a.VolumeID) + "; " + deleteCommand("ATTACHMENT") + "; or ask the cloud operator to run: " +
				resetCommand(a.VolumeID, state.Available))
	}
	var found []string
	for _, r := range records {
		found = append(found, r.Status+" for server "+r.Instance+" (attachment "+r.ID+")")
	}
	return volume.Errorf(volume.KindInProgress, "the volume has the status %s: %s", v.Status, strings.Join(found, ", ")).
		WithRemedy(message.IfPersists + "the attachment has failed: " +
			"make sure that the server does not have the volume, then run: " + deleteCommand("ATTACHMENT"))
}

// The commands that messages name. Attachments need microversion 3.27 of Cinder. ATTACHMENT in a
// command stands for the id that the user finds with listCommand.
func listCommand(volumeID string) string {
	return "openstack --os-volume-api-version 3.27 volume attachment list --volume-id " + volumeID
}

func deleteCommand(id string) string {
	return "openstack --os-volume-api-version 3.27 volume attachment delete " + id
}

func resetCommand(volumeID, status string) string {
	return "openstack volume set --state " + status + " " + volumeID
}
