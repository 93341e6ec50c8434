package cinder

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/volume"
)

// mostRequests bounds how often one call asks Nova for the same thing: once,
// and once more when the state has changed under it.
const mostRequests = 2

// novaStep is the time between looks at Nova when it and Cinder do not agree.
const novaStep = 500 * time.Millisecond

// Attach implements volume.Attacher. A volume that cannot or must not be shared
// may be attached to one server in any mode: those that cinder-csi-plugin made
// for several nodes work on one. It succeeds when Cinder lists a completed
// attachment to this server and Nova has it too: when Nova has accepted it in
// this call, or was asked. Kinds beside those of the interface: InProgress (the
// server is busy or locked), Internal (Nova has given up), Unavailable (Nova
// does not find what Cinder shows), Deadline.
func (b *Backend) Attach(ctx context.Context, req volume.AttachRequest) (map[string]string, error) {
	c, err := b.cloudOf(ctx, req.ID)
	if err != nil {
		return nil, volume.Wrap(err, "attach", req.ID)
	}
	a := attachment{b: b, cloud: c, id: req.ID, server: req.Node, shared: req.Access.IsShared()}
	inner, cancel := answerable(ctx)
	defer cancel()
	v, err := a.attach(inner)
	if volume.IsKind(err, volume.KindDeadline) {
		err = a.late(ctx, err)
	}
	if err != nil {
		return nil, volume.Wrap(err, "attach", req.ID)
	}
	b.noteStatic(c, v)
	return a.publishContext(v), nil
}

// publishContext is what the node gets to know of the volume.
func (a attachment) publishContext(v cloud.Volume) map[string]string {
	published := map[string]string{cindercsi.ContextSize: strconv.FormatInt(cloud.SizeOf(v).Bytes(), 10)}
	if v.Encrypted {
		published[cindercsi.ContextEncrypted] = "true"
	}
	for _, at := range v.Attachments {
		if strings.EqualFold(at.ServerID, a.server) && at.Device != "" {
			published[cindercsi.ContextDevicePath] = at.Device
		}
	}
	return published
}

// attach drives the volume to the server from whatever state it is in.
func (a attachment) attach(ctx context.Context) (cloud.Volume, error) {
	v, err := a.cloud.Volume(ctx, a.id)
	if err == nil {
		err = a.allowed(ctx, v)
	}
	confirmed := false // Nova is known to have it
	for asked := 0; err == nil; {
		switch a.stage(v) {
		case here:
			if !confirmed {
				err = a.confirm(ctx, v)
			}
			return v, err
		case elsewhere:
			err = a.attachedElsewhere(ctx, v)
		case broken:
			err = unusable(v)
		case coming:
			v, confirmed, err = a.arrive(ctx)
		case going, busy:
			confirmed = false
			v, err = a.settle(ctx)
		case free:
			if asked++; asked > mostRequests {
				return v, volume.Errorf(volume.KindInProgress, "the volume is %s again each time that Nova has been asked to attach it", v.Status).
					WithRemedy("it will be retried; see whether somebody else detaches it")
			}
			v, confirmed, err = a.request(ctx, v)
		}
	}
	return v, err
}

// settle waits for something else that goes on with the volume.
func (a attachment) settle(ctx context.Context) (cloud.Volume, error) {
	v, stalled, err := a.watch(ctx, "settle", func(v cloud.Volume) bool { s := a.stage(v); return s != going && s != busy })
	if stalled {
		err = volume.Errorf(volume.KindInProgress, "the volume is still %s", v.Status).
			WithRemedy("it will be retried; if it stays like this, see: openstack volume show " + a.id + "; openstack server event list " + a.server)
	}
	return v, err
}

// allowed tells whether the volume can be used as asked for at all.
func (a attachment) allowed(ctx context.Context, v cloud.Volume) error {
	if v.Multiattach {
		// Nova refuses shareable volumes to older clients, also to the first server.
		err := a.cloud.CheckFeature(ctx, cloud.FeatureMultiattach)
		if volume.IsKind(err, volume.KindUnsupported) {
			return volume.Errorf(volume.KindPrecondition, "the volume can be shared, and this cloud attaches no such volume: %w", err)
		}
		return err
	}
	return nil
}

// confirm asks Nova whether it knows of the attachment that Cinder lists.
func (a attachment) confirm(ctx context.Context, v cloud.Volume) error {
	found, err := a.inNova(ctx)
	if err != nil || found {
		return err
	}
	if _, err := a.cloud.Server(ctx, a.server); err != nil {
		return a.missing(err)
	}
	return a.contradiction(v)
}

// contradiction is the error for an attachment that only Cinder has. It is not
// mended: the hypervisor may still have the disk plugged in, and another
// attachment would then write to it from two places.
func (a attachment) contradiction(v cloud.Volume) *volume.Error {
	return volume.Errorf(volume.KindPrecondition, "Cinder shows the volume %s with an attachment to server %s, but Nova has no such attachment", v.Status, a.server).
		WithRemedy("make sure that the server does not have the disk any more, then remove the record: " + attachmentCommand + "list --volume-id " + a.id + "; " +
			attachmentCommand + "delete ATTACHMENT")
}

// request asks Nova to attach the volume and waits for the result. A volume
// that is not here without an error has changed meanwhile.
func (a attachment) request(ctx context.Context, v cloud.Volume) (_ cloud.Volume, confirmed bool, err error) {
	err = a.cloud.Attach(ctx, a.server, a.id, v.Multiattach)
	if err == nil {
		v, err = a.join(ctx)
		return v, true, err
	}
	switch volume.KindOf(err) {
	case volume.KindAlreadyExists:
		v, err = a.join(ctx)
		return v, false, err
	case volume.KindUnavailable:
		// The answer may have been lost, and the work be done all the same.
		if found, errNova := a.inNova(ctx); errNova == nil && found {
			v, err = a.join(ctx)
			return v, true, err
		}
	case volume.KindNotFound:
		v, err = a.missingPart(ctx, v, err)
	case volume.KindPrecondition, volume.KindInvalid:
		if now, errRead := a.cloud.Volume(ctx, a.id); errRead == nil && a.stage(now) != free {
			return now, false, nil
		}
	case volume.KindInProgress:
		err = a.refused(ctx, err)
	case volume.KindExhausted:
		err = volume.Errorf(volume.KindExhausted, "server %s takes no more volumes: %w", a.server, err).
			WithRemedy("lower the node's limit of volumes (--max-volumes of growvol-node) to what it takes, so that pods go elsewhere")
	default:
	}
	return v, false, err
}

// remedyNovaCinder is the next step when Nova does not find a volume that Cinder shows.
const remedyNovaCinder = "check that nova-api reaches the same Cinder (section [cinder] of nova.conf: catalog_info, os_region_name)"

// missingPart returns the error for an attachment of which Nova says that the
// server or the volume does not exist. Nova's word on a volume is not Cinder's:
// it says the same when it cannot reach Cinder, or when it uses another one.
func (a attachment) missingPart(ctx context.Context, v cloud.Volume, cause error) (cloud.Volume, error) {
	if _, err := a.cloud.Server(ctx, a.server); err != nil {
		return v, a.missing(err)
	}
	now, err := a.cloud.Volume(ctx, a.id)
	if err != nil {
		return v, err
	}
	return now, volume.Errorf(volume.KindUnavailable, "Cinder shows the volume %s, and Nova shows the server, but Nova finds one of them missing: %w", now.Status, cause).
		WithRemedy(remedyNovaCinder)
}

// missing turns "no such server" into what it means to the caller.
func (a attachment) missing(err error) error {
	if !volume.IsKind(err, volume.KindNotFound) {
		return err
	}
	return volume.Errorf(volume.KindNotFound, "the node does not exist: %w", err).
		WithRemedy("the node id must be the id of a server of this cloud and project")
}

// join waits for the end of an attachment that Nova has begun.
func (a attachment) join(ctx context.Context) (cloud.Volume, error) {
	for {
		v, err := a.await(ctx, "attach", func(v cloud.Volume) bool {
			s := a.stage(v)
			return s != coming && s != busy
		})
		if err != nil || a.stage(v) == here {
			return v, err
		}
		// The volume is as if nothing had been asked. Nova forgets an attachment
		// that has failed; one that it still has is on its way.
		found, err := a.inNova(ctx)
		if err != nil {
			return v, err
		}
		if !found {
			return v, a.failed(ctx, v)
		}
		if err := operation.Sleep(ctx, novaStep); err != nil {
			return v, volume.Errorf(volume.KindOf(err), "Nova has the volume on server %s, and Cinder shows it %s", a.server, v.Status).
				WithRemedy("it will be retried; if it stays like this, have Nova let go of it: openstack server remove volume " + a.server + " " + a.id)
		}
	}
}

// failed is the error for an attachment that Nova accepted and gave up.
func (a attachment) failed(ctx context.Context, v cloud.Volume) error {
	if a.stage(v) == elsewhere {
		return a.attachedElsewhere(ctx, v)
	}
	return volume.Errorf(volume.KindInternal, "Nova has accepted it and given it up again: the volume is %s; %s", v.Status, a.b.reasonOf(ctx, a.cloud, v, volume.KindInternal).text).
		WithRemedy("it will be retried; the reason is in the log of nova-compute, a part of it in: openstack server event list " + a.server)
}

// attachedElsewhere is the error for a volume that others have. One that is
// gone will not let go of it by itself.
func (a attachment) attachedElsewhere(ctx context.Context, v cloud.Volume) error {
	for _, server := range servers(v) {
		if _, err := a.cloud.Server(ctx, server); volume.IsKind(err, volume.KindNotFound) {
			return volume.Errorf(volume.KindPrecondition, "Cinder shows the volume attached to server %s, which does not exist any more", server).
				WithRemedy("it is freed when Kubernetes detaches it from that node (delete the Node object if it is still there); by hand: " +
					attachmentCommand + "list --volume-id " + a.id + "; " + attachmentCommand + "delete ATTACHMENT")
		}
	}
	return volume.Errorf(volume.KindPrecondition, "the volume is attached to %s, and it is not to be shared", users(v)).
		WithRemedy("it must be detached there first: stop the pod that uses it there; for a node that is down, see \"Non-graceful node shutdown\" in the documentation of Kubernetes")
}

// unusable is the error for a volume that is in no state to be attached.
func unusable(v cloud.Volume) error {
	err := volume.Errorf(volume.KindPrecondition, "the volume is %s, which does not pass by itself", v.Status)
	switch v.Status {
	case stateDeleting, stateErrorDeleting:
		return err.WithRemedy("it is being deleted, or was to be; nothing can be done with it")
	case stateInUse:
		return volume.Errorf(volume.KindPrecondition, "the volume is in-use, but Cinder lists no attachment of it").
			WithRemedy("have an administrator see to it: cinder reset-state --attach-status detached --state available " + v.ID)
	}
	return err.WithRemedy("find out what has happened (openstack volume message list), then have an administrator reset it: openstack volume set --state available " + v.ID)
}
