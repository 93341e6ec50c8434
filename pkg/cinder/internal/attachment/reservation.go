package attachment

import (
	"context"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
)

// resolveReservation deals with a volume that is reserved or attaching. If Nova has the attachment
// to this server, an earlier call began it, and resolveReservation waits for its end. Otherwise a
// request of another client is running, or one has failed halfway and left the volume reserved.
func (a Attachment) resolveReservation(ctx context.Context) (v cloud.Volume, isConfirmed bool, err error) {
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
	if err != nil {
		return v, false, err
	}
	if !hasChanged {
		return v, false, a.stalledError(ctx, v)
	}
	v, err = a.API.Volume(ctx, a.VolumeID)
	return v, false, err
}

// removeReservations removes the reservations for this server that Nova does not know. It reports
// whether the volume must be read again: it removed some, or Nova now has the attachment.
//
// Nova registers an attachment before Cinder reserves the volume, and forgets it after Cinder has
// released the volume. So nobody uses a reservation that existed before Nova was asked and that
// Nova does not know; and a reservation alone gives no host access to the volume.
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
		a.Log.WarnContext(ctx, "removing the reservation that an attachment left behind",
			"volume", a.VolumeID, "server", a.ServerID, "attachment", r.ID)
		if err := a.API.DeleteAttachment(ctx, r.ID); err != nil && !volume.IsKind(err, volume.KindNotFound) {
			return false, volume.Errorf(volume.KindOf(err),
				"the volume is %s for server %s, but Nova knows nothing of it, and the reservation cannot be removed: %w",
				r.Status, a.ServerID, err).
				WithRemedy("ask an administrator to run: " + deleteCommand(r.ID))
		}
	}
	return true, nil
}

// stalledError is the error for a volume that stays reserved, attaching or detaching for other
// servers.
func (a Attachment) stalledError(ctx context.Context, v cloud.Volume) error {
	records, err := a.API.AttachmentRecords(ctx, a.VolumeID)
	if err != nil || len(records) == 0 {
		return volume.Errorf(volume.KindInProgress,
			"the volume is %s, but not for server %s: Nova says that this server does not have it", v.Status, a.ServerID).
			WithRemedy("if it lasts, the request for that attachment has failed: check " + listCommand(a.VolumeID) +
				" and delete the attachment that no server has, or ask an administrator to run: " +
				resetCommand(a.VolumeID, state.Available))
	}
	var found []string
	for _, r := range records {
		found = append(found, r.Status+" for server "+r.Instance+" (attachment "+r.ID+")")
	}
	return volume.Errorf(volume.KindInProgress, "the volume is %s: %s", v.Status, strings.Join(found, ", ")).
		WithRemedy("if it lasts, the request for that attachment has failed: " +
			"make sure that the server does not have the volume, then run: " + deleteCommand("ATTACHMENT"))
}

// The commands that messages name. Attachments need microversion 3.27 of Cinder.
func listCommand(volumeID string) string {
	return "openstack --os-volume-api-version 3.27 volume attachment list --volume-id " + volumeID
}

func deleteCommand(id string) string {
	return "openstack --os-volume-api-version 3.27 volume attachment delete " + id
}

func resetCommand(volumeID, status string) string {
	return "openstack volume set --state " + status + " " + volumeID
}
