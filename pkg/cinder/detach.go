package cinder

import (
	"context"
	"strings"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// Detach implements volume.Attacher. It succeeds when Cinder lists no
// attachment to the node, nothing is under way that concerns it, and Nova does
// not have the volume there either. A server that is gone is no proof: if
// Cinder still lists it, its record is removed, which Cinder allows only when
// Nova does not know the server. Kinds: InProgress (the server is busy or
// locked), Unavailable (the guest does not let go), Precondition (Cinder and
// Nova contradict one another; the state of the server), Deadline.
func (b *Backend) Detach(ctx context.Context, id, node string) error {
	c, err := b.cloudOf(ctx, id)
	if err != nil {
		return volume.Wrap(err, "detach", id)
	}
	a := attachment{b: b, cloud: c, id: id, server: node}
	inner, cancel := answerable(ctx)
	defer cancel()
	if node == "" {
		return volume.Wrap(a.detachAll(inner), "detach", id)
	}
	err = a.detach(inner)
	if volume.IsKind(err, volume.KindDeadline) {
		err = a.late(ctx, err)
	}
	return volume.Wrap(err, "detach", id)
}

// detachAll detaches the volume from all servers, one after the other: Cinder
// lets only one of them leave at a time.
func (a attachment) detachAll(ctx context.Context) error {
	for {
		v, err := a.cloud.Volume(ctx, a.id)
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
			one.server = server
			if err := one.detach(ctx); err != nil {
				return volume.Wrap(err, "detach from server "+server, a.id)
			}
		}
	}
}

// servers returns whom the volume is attached to, or just being attached to.
func (a attachment) servers(ctx context.Context, v cloud.Volume) (map[string]bool, error) {
	if len(v.Attachments) == 0 && moving(v.Status) {
		var stalled bool
		var err error
		v, stalled, err = a.watch(ctx, "settle", func(v cloud.Volume) bool { return !moving(v.Status) })
		if volume.IsKind(err, volume.KindNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if stalled {
			return a.recorded(ctx, v)
		}
	}
	servers := make(map[string]bool)
	for _, at := range v.Attachments {
		servers[at.ServerID] = true
	}
	if servers[""] {
		return nil, volume.Errorf(volume.KindPrecondition, "the volume is attached to %s, which Nova cannot detach", users(v)).
			WithRemedy("detach it where it was attached, or delete the attachment: " + attachmentCommand + "list --volume-id " + a.id)
	}
	return servers, nil
}

// recorded returns the servers that Cinder has any record of, also of
// reservations, which it does not show with the volume.
func (a attachment) recorded(ctx context.Context, v cloud.Volume) (map[string]bool, error) {
	records, err := a.cloud.AttachmentRecords(ctx, a.id)
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
		return nil, volume.Errorf(volume.KindPrecondition, "the volume is %s, but Cinder has no record of any server for it", v.Status).
			WithRemedy("have an administrator reset it: openstack volume set --state available " + a.id)
	}
	return servers, nil
}

// detach drives the volume off the server from whatever state it is in.
func (a attachment) detach(ctx context.Context) error {
	v, err := a.cloud.Volume(ctx, a.id)
	for asked := 0; ; {
		if volume.IsKind(err, volume.KindNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case moving(v.Status):
			var off bool
			if v, off, err = a.leave(ctx); off && err == nil {
				return nil
			}
		case listedOn(v, a.server):
			if asked == mostRequests {
				return a.held(v)
			}
			if asked++; asked > 1 {
				err = operation.Sleep(ctx, patience(ctx)) // a guest that was busy may be through by then
			}
			if err == nil {
				v, err = a.release(ctx, v)
			}
		default:
			var off bool
			if v, off, err = a.forgotten(ctx, v); off {
				return nil
			}
		}
	}
}

// release asks Nova to detach the volume and waits until it has tried.
func (a attachment) release(ctx context.Context, v cloud.Volume) (cloud.Volume, error) {
	if passing(v.Status) {
		// Cinder lets go of volumes only that are stateInUse and nothing else.
		settled, stalled, err := a.watch(ctx, "settle", func(v cloud.Volume) bool { return !passing(v.Status) })
		if stalled {
			return v, volume.Errorf(volume.KindInProgress, "the volume is still %s, and Cinder detaches it only after that", settled.Status)
		}
		if v = settled; err != nil || v.Status != stateInUse || !listedOn(v, a.server) {
			return v, err
		}
	}
	err := a.cloud.Detach(ctx, a.server, a.id)
	switch {
	case err == nil:
		return a.await(ctx, "detach", func(v cloud.Volume) bool { return !moving(v.Status) })
	case volume.IsKind(err, volume.KindNotFound):
		return a.unknown(ctx, err)
	case volume.IsKind(err, volume.KindUnavailable), volume.IsKind(err, volume.KindPrecondition), volume.IsKind(err, volume.KindInvalid):
		// It may have been done all the same, or somebody else was faster.
		now, errRead := a.cloud.Volume(ctx, a.id)
		if volume.IsKind(errRead, volume.KindNotFound) || errRead == nil && (moving(now.Status) || !listedOn(now, a.server)) {
			return now, errRead
		}
		if v.Status != stateInUse && errRead == nil {
			err = volume.Errorf(volume.KindPrecondition, "the volume is %s, and Cinder detaches only volumes that are in-use: %w", v.Status, err).
				WithRemedy("have an administrator reset it: openstack volume set --state in-use " + a.id)
		}
	case volume.IsKind(err, volume.KindInProgress):
		err = a.refused(ctx, err)
	}
	return v, err
}

// unknown deals with a detachment of which Nova says that the server, the
// volume or the attachment does not exist. If Nova has the attachment, it is
// the volume that Nova does not find in Cinder, which proves nothing.
func (a attachment) unknown(ctx context.Context, cause error) (cloud.Volume, error) {
	v, err := a.cloud.Volume(ctx, a.id)
	if err != nil || moving(v.Status) || !listedOn(v, a.server) {
		return v, err
	}
	found, err := a.inNova(ctx)
	if err != nil {
		return v, err
	}
	if found {
		return v, volume.Errorf(volume.KindUnavailable, "Cinder shows the volume %s, and Nova has it on server %s, but does not find the volume itself: %w", v.Status, a.server, cause).
			WithRemedy(remedyNovaCinder)
	}
	var ids []string
	for _, at := range v.Attachments {
		if strings.EqualFold(at.ServerID, a.server) {
			ids = append(ids, at.AttachmentID)
		}
	}
	return a.orphaned(ctx, v, ids)
}

// orphaned deals with attachments to the server that only Cinder has. When the
// server is gone they are removed, for nothing else is left of them.
func (a attachment) orphaned(ctx context.Context, v cloud.Volume, ids []string) (cloud.Volume, error) {
	_, err := a.cloud.Server(ctx, a.server)
	if err == nil {
		return v, a.contradiction(v)
	}
	if !volume.IsKind(err, volume.KindNotFound) {
		return v, err
	}
	for _, id := range ids {
		a.b.log.WarnContext(ctx, "removing the attachment to a server that does not exist", "volume", a.id, "server", a.server, "attachment", id)
		if err := a.cloud.DeleteAttachment(ctx, id); err != nil && !volume.IsKind(err, volume.KindNotFound) {
			return v, volume.Errorf(volume.KindPrecondition, "server %s does not exist, but Cinder shows the volume attached to it, and the record cannot be removed: %w", a.server, err).
				WithRemedy("have an administrator remove it: " + attachmentCommand + "delete " + id)
		}
	}
	return a.cloud.Volume(ctx, a.id)
}

// leave waits for the end of what is under way with the volume. off tells that
// the server has no part in it.
func (a attachment) leave(ctx context.Context) (v cloud.Volume, off bool, err error) {
	still := func(v cloud.Volume) bool { return !moving(v.Status) }
	v, stalled, err := a.watch(ctx, "detach", still)
	if err != nil || !stalled {
		return v, false, err
	}
	found, err := a.inNova(ctx)
	if err != nil {
		return v, false, err
	}
	if found {
		v, err = a.await(ctx, "detach", still)
		return v, false, err
	}
	changed, err := a.clearRemains(ctx)
	if err != nil {
		return v, false, err
	}
	if changed {
		v, err = a.cloud.Volume(ctx, a.id)
		return v, false, err
	}
	records, err := a.cloud.AttachmentRecords(ctx, a.id)
	if err != nil || len(records) == 0 {
		return v, false, a.limbo(ctx, v)
	}
	var ours []string
	for _, r := range records {
		if strings.EqualFold(r.Instance, a.server) {
			ours = append(ours, r.ID)
		}
	}
	if len(ours) > 0 {
		v, err = a.orphaned(ctx, v, ours)
		return v, false, err
	}
	return v, true, nil // it is for other servers, and Nova does not have it on this one
}

// forgotten tells whether Nova has forgotten the attachment too: it does so a
// little after Cinder, and refuses the next one until then. If it has not, the
// volume is read once more after a while: an attachment that begins looks the
// same for a moment.
func (a attachment) forgotten(ctx context.Context, v cloud.Volume) (_ cloud.Volume, off bool, err error) {
	found, err := a.inNova(ctx)
	if err != nil || !found {
		return v, err == nil, err
	}
	if err := operation.Sleep(ctx, novaStep); err != nil {
		return v, false, volume.Errorf(volume.KindOf(err), "Cinder shows the volume %s, but Nova still has it on server %s", v.Status, a.server).
			WithRemedy("it will be retried; if it stays like this, see: openstack server event list " + a.server)
	}
	v, err = a.cloud.Volume(ctx, a.id)
	return v, false, err
}

// held is the error for a guest that does not let go of the disk.
func (a attachment) held(v cloud.Volume) error {
	return volume.Errorf(volume.KindUnavailable, "Nova has tried to unplug the disk from server %s and given up: the volume is %s again; the guest does not let go of it", a.server, v.Status).
		WithRemedy("it will be retried; see whether the guest hangs or still has the disk mounted, and openstack server event list " + a.server +
			"; if the server is beyond help, shut it off or delete it")
}
