package cinder

import (
	"context"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// attachmentCommand begins what people type to see or mend Cinder's attachments.
const attachmentCommand = "openstack --os-volume-api-version 3.27 volume attachment "

// arrive deals with a volume that is reserved or attaching. If Nova has it on
// this server it is ours, from an earlier call, and is joined. Else somebody
// else's request is under way, or one has broken off half-way and left the
// volume reserved for ever.
func (a attachment) arrive(ctx context.Context) (v cloud.Volume, confirmed bool, err error) {
	found, err := a.inNova(ctx)
	if err != nil {
		return v, false, err
	}
	if found {
		v, err = a.join(ctx)
		return v, true, err
	}
	v, stalled, err := a.watch(ctx, "settle", func(v cloud.Volume) bool { return a.stage(v) != coming })
	if err != nil || !stalled {
		return v, false, err
	}
	changed, err := a.clearRemains(ctx)
	if err != nil {
		return v, false, err
	}
	if !changed {
		return v, false, a.limbo(ctx, v)
	}
	v, err = a.cloud.Volume(ctx, a.id)
	return v, false, err
}

// clearRemains removes the reservations of this server that Nova knows nothing
// of, and tells whether the volume is to be looked at again. Nova registers an
// attachment before it has Cinder reserve the volume, and forgets it after
// Cinder has released it. So a reservation that was there before Nova was asked,
// and that Nova does not have, is nobody's; and as it was never more than a
// reservation, no host has the volume by it.
func (a attachment) clearRemains(ctx context.Context) (changed bool, err error) {
	records, err := a.cloud.AttachmentRecords(ctx, a.id)
	if err != nil {
		if volume.IsKind(err, volume.KindUnsupported) {
			return false, nil
		}
		return false, err
	}
	records = slices.DeleteFunc(records, func(r cloud.AttachmentRecord) bool {
		return !strings.EqualFold(r.Instance, a.server) || r.Status != stateReserved
	})
	if len(records) == 0 {
		return false, nil
	}
	if found, err := a.inNova(ctx); err != nil || found {
		return found, err
	}
	for _, r := range records {
		a.b.log.WarnContext(ctx, "removing the reservation that an attachment left behind", "volume", a.id, "server", a.server, "attachment", r.ID)
		if err := a.cloud.DeleteAttachment(ctx, r.ID); err != nil && !volume.IsKind(err, volume.KindNotFound) {
			return false, volume.Errorf(volume.KindOf(err), "the volume is %s for server %s, of which Nova knows nothing, and the reservation cannot be removed: %w", r.Status, a.server, err).
				WithRemedy("have an administrator remove it: " + attachmentCommand + "delete " + r.ID)
		}
	}
	return true, nil
}

// limbo is the error for a volume that stays reserved, attaching or detaching
// for others.
func (a attachment) limbo(ctx context.Context, v cloud.Volume) error {
	const remedy = "if it stays like this, the request that it belongs to has broken off: "
	see := attachmentCommand + "list --volume-id " + a.id
	records, err := a.cloud.AttachmentRecords(ctx, a.id)
	if err != nil || len(records) == 0 {
		return volume.Errorf(volume.KindInProgress, "the volume is %s, but not for server %s, of which Nova says that it does not have it", v.Status, a.server).
			WithRemedy(remedy + "look at " + see + " and delete the attachment that no server has, or have an administrator reset the volume: openstack volume set --state available " + a.id)
	}
	var whose []string
	for _, r := range records {
		whose = append(whose, r.Status+" for server "+r.Instance+" (attachment "+r.ID+")")
	}
	return volume.Errorf(volume.KindInProgress, "the volume is %s: %s", v.Status, strings.Join(whose, ", ")).
		WithRemedy(remedy + "if that server does not have the volume, delete the attachment: " + attachmentCommand + "delete ATTACHMENT")
}
