package cinder

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// Statuses of volumes, and of attachments, while a server comes or goes.
const (
	stateReserved  = "reserved"
	stateAttaching = "attaching"
	stateDetaching = "detaching"
)

// stage is where a volume stands as one server sees it.
type stage uint8

const (
	free      stage = iota // may be attached to the server
	here                   // attached to the server
	elsewhere              // attached to others, and not to be shared with them
	coming                 // reserved or attaching; Cinder does not show for whom
	going                  // detaching; Cinder does not show from where
	busy                   // something else that ends by itself
	broken                 // nothing that ends by itself
)

// attachment is one volume on one server, wanted or present.
type attachment struct {
	b      *Backend
	cloud  *cloud.Cloud
	id     string // of the volume
	server string
	shared bool // it may be attached to other servers too; of no meaning for a detach
}

// stage judges a reading of the volume. Cinder lists completed attachments
// only, so one that is listed is real, unless the volume is just detaching.
func (a attachment) stage(v cloud.Volume) stage {
	listed := listedOn(v, a.server)
	switch {
	case v.Status == stateDetaching:
		return going
	case moving(v.Status):
		// Another server that joins does not touch what is here.
		if listed && v.Multiattach {
			return here
		}
		return coming
	case listed && (v.Status == stateInUse || v.Status == stateErrorExtending || passing(v.Status)):
		return here
	case !listed && len(v.Attachments) > 0 && (!v.Multiattach || !a.shared):
		return elsewhere
	case passing(v.Status):
		return busy
	case v.Status == stateAvailable, v.Status == stateInUse && len(v.Attachments) > 0:
		return free
	}
	return broken
}

// moving tells whether an attachment of the volume begins or ends.
func moving(status string) bool {
	return status == stateReserved || status == stateAttaching || status == stateDetaching
}

// passing tells whether Cinder works on the volume and will be done with it.
func passing(status string) bool {
	return slices.Contains([]string{
		stateCreating, "downloading", stateExtending, stateRetyping, "backing-up", "restoring-backup", "uploading", stateMaintenance, "managing",
	}, status)
}

// listedOn tells whether Cinder lists a completed attachment to the server.
func listedOn(v cloud.Volume, server string) bool {
	return slices.ContainsFunc(v.Attachments, func(at cloud.Attachment) bool { return strings.EqualFold(at.ServerID, server) })
}

// users names the servers that Cinder lists, for messages.
func users(v cloud.Volume) string {
	var names []string
	for _, at := range v.Attachments {
		name := "server " + at.ServerID
		if at.ServerID == "" {
			name = "a host that is no server of Nova"
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// inNova tells whether Nova has the volume on the server, be it only just
// coming or going: it does before Cinder reserves the volume, and until after
// Cinder has given it free.
func (a attachment) inNova(ctx context.Context) (bool, error) {
	return a.cloud.ServerAttachment(ctx, a.server, a.id)
}

// await waits until the volume is as wanted.
func (a attachment) await(ctx context.Context, op string, wanted func(cloud.Volume) bool) (cloud.Volume, error) {
	return a.b.await(ctx, a.cloud, a.id, op, func(v cloud.Volume) (bool, error) { return wanted(v), nil })
}

// watch is await for something that may never come: it is patient for a part
// of the caller's time only and then tells that the volume has stalled.
func (a attachment) watch(ctx context.Context, op string, wanted func(cloud.Volume) bool) (v cloud.Volume, stalled bool, err error) {
	short, cancel := context.WithTimeout(ctx, patience(ctx))
	defer cancel()
	v, err = a.await(short, op, wanted)
	if volume.IsKind(err, volume.KindDeadline) && ctx.Err() == nil && v.ID != "" {
		return v, true, nil
	}
	return v, false, err
}

// patience is how long to wait before a state counts as stalled: long enough
// for Nova at work, short enough to do something about it in the same call.
func patience(ctx context.Context) time.Duration {
	const most = 15 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		return min(time.Until(deadline)/4, most)
	}
	return most
}

// answerable ends a little before ctx: an error that is made when the caller
// has gone explains nothing to anybody.
func answerable(ctx context.Context) (context.Context, context.CancelFunc) {
	return operation.WithMargin(ctx, 2*time.Second, 10)
}

// late adds to an error of kind Deadline what the server's state explains.
func (a attachment) late(ctx context.Context, err error) error {
	s, errServer := a.cloud.Server(ctx, a.server)
	switch {
	case volume.IsKind(errServer, volume.KindNotFound):
		return volume.Errorf(volume.KindDeadline, "%w; Nova knows no server %s", err, a.server)
	case errServer != nil || s.Status == "ACTIVE":
		return err
	}
	return volume.Errorf(volume.KindDeadline, "%w; server %s is %s", err, a.server, s.Status).
		WithRemedy("see what is the matter with the server: openstack server show " + a.server)
}

// refused explains an answer 409: Nova attaches and detaches only when nothing
// else goes on with the server, it is not locked, and its state allows it.
func (a attachment) refused(ctx context.Context, err error) error {
	s, errServer := a.cloud.Server(ctx, a.server)
	if errServer != nil {
		return err
	}
	switch s.Status {
	case "ERROR", "SUSPENDED", "RESCUE", "SOFT_DELETED", "SHELVED", "SHELVED_OFFLOADED":
		return volume.Errorf(volume.KindPrecondition, "server %s is %s: %w", a.server, s.Status, err).
			WithRemedy("bring the server back to work, or delete the node if it is gone for good")
	case "DELETED":
		return volume.Errorf(volume.KindInProgress, "server %s is being deleted, and Nova detaches its volumes itself: %w", a.server, err).
			WithRemedy("it will be retried")
	}
	return volume.Errorf(volume.KindInProgress, "server %s is %s: %w", a.server, s.Status, err).
		WithRemedy("it will be retried; if the server is locked, unlock it: openstack server unlock " + a.server)
}
