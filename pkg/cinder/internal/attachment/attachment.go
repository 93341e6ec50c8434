// Package attachment attaches a volume to a server and detaches it, from whatever state the two are
// in. Nova does the work, and Cinder shows the state of the volume, with completed attachments
// only; Nova also knows attachments that begin or end. The package relies on neither alone: Attach
// succeeds when both have the attachment, and Detach when neither has it.
//
// Begin with Attachment.Attach and Attachment.Detach. Each is a loop: read the volume, determine
// its stage, make one step, repeat.
package attachment

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/poll"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Attachment is an attachment of a volume to a server, which may not exist yet.
type Attachment struct {
	API      *cloud.Cloud
	Pollers  *poll.Group
	Log      *slog.Logger
	VolumeID string
	ServerID string // empty: all servers; only Detach allows that
	Shared   bool   // Attach may attach the volume although other servers have it; Detach ignores Shared
}

// maxRequests bounds how often one call requests an attachment or a detachment from Nova: a second
// time if the first request did not lead to it.
const maxRequests = 2

// stage is the state of a volume in relation to one server.
type stage uint8

const (
	stageDetached          stage = iota // the volume may be attached to the server
	stageAttached                       // the volume is attached to the server
	stageAttachedElsewhere              // the volume is attached to other servers and must not be shared with them
	stageAttaching                      // the volume is reserved or attaching; Cinder does not show for which server
	stageDetaching                      // the volume is detaching; Cinder does not show from which server
	stageBusy                           // another operation is running, which ends by itself
	stageFailed                         // the volume is in a state that does not end by itself
)

// stageOf returns the stage of the volume as Cinder shows it. Cinder lists completed attachments
// only, so a listed attachment exists, unless the volume is detaching.
func (a Attachment) stageOf(v cloud.Volume) stage {
	isListed := isListedOn(v, a.ServerID)
	switch {
	case v.Status == state.Detaching:
		return stageDetaching
	case isChanging(v):
		// An attachment to another server does not change the one to this server.
		if isListed && v.Multiattach {
			return stageAttached
		}
		return stageAttaching
	case isListed && (v.Status == state.InUse || v.Status == state.ErrorExtending || isBusy(v)):
		return stageAttached
	case !isListed && len(v.Attachments) > 0 && (!v.Multiattach || !a.Shared):
		return stageAttachedElsewhere
	case isBusy(v):
		return stageBusy
	case v.Status == state.Available, v.Status == state.InUse && len(v.Attachments) > 0:
		return stageDetached
	}
	return stageFailed
}

// isChanging reports whether an attachment of the volume is beginning or ending.
func isChanging(v cloud.Volume) bool {
	return v.Status == state.Reserved || v.Status == state.Attaching || v.Status == state.Detaching
}

// isBusy reports whether Cinder runs an operation on the volume that ends by itself.
func isBusy(v cloud.Volume) bool {
	return slices.Contains([]string{
		state.Creating, "downloading", state.Extending, state.Retyping, "backing-up", "restoring-backup",
		"uploading", state.Maintenance, "managing",
	}, v.Status)
}

// not returns the opposite of a condition.
func not(condition func(cloud.Volume) bool) func(cloud.Volume) bool {
	return func(v cloud.Volume) bool { return !condition(v) }
}

// isListedOn reports whether Cinder lists a completed attachment to the server.
func isListedOn(v cloud.Volume, server string) bool { return len(attachmentIDs(v, server)) > 0 }

// attachmentIDs returns the ids of the completed attachments to the server.
func attachmentIDs(v cloud.Volume, server string) []string {
	var ids []string
	for _, at := range v.Attachments {
		if strings.EqualFold(at.ServerID, server) {
			ids = append(ids, at.AttachmentID)
		}
	}
	return ids
}

// describeServers returns the servers that Cinder lists, for messages.
func describeServers(v cloud.Volume) string {
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

// isInNova reports whether Nova has the attachment. Nova records it before Cinder reserves the
// volume, and deletes the record after Cinder has released the volume.
func (a Attachment) isInNova(ctx context.Context) (bool, error) {
	return a.API.ServerAttachment(ctx, a.ServerID, a.VolumeID)
}

// await waits until done reports true for the volume.
func (a Attachment) await(ctx context.Context, op string, done func(cloud.Volume) bool) (cloud.Volume, error) {
	return a.Pollers.Await(ctx, a.API, a.VolumeID, op, done)
}

// awaitShare is await for a share of the remaining time. It reports isStalled, and the volume as
// last read, if done has not reported true by then.
func (a Attachment) awaitShare(
	ctx context.Context, op string, done func(cloud.Volume) bool,
) (v cloud.Volume, isStalled bool, err error) {
	limited, cancel := poll.WithShare(ctx)
	defer cancel()
	v, err = a.await(limited, op, done)
	if volume.IsKind(err, volume.KindDeadline) && ctx.Err() == nil && v.ID != "" {
		return v, true, nil
	}
	return v, false, err
}

// withServerMargin returns a context that ends before ctx does, by 2 s or a tenth of the remaining
// time, whichever is smaller, so that addServerState has time to read the server after a wait.
func withServerMargin(ctx context.Context) (context.Context, context.CancelFunc) {
	return operation.WithMargin(ctx, 2*time.Second, 10)
}

// addServerState adds the state of the server to an error of kind Deadline, if the state can be the
// cause.
func (a Attachment) addServerState(ctx context.Context, err error) error {
	s, errServer := a.API.Server(ctx, a.ServerID)
	switch {
	case volume.IsKind(errServer, volume.KindNotFound):
		return volume.Errorf(volume.KindDeadline, "%w; Nova has no server %s", err, a.ServerID)
	case errServer != nil || s.Status == "ACTIVE":
		return err
	}
	return volume.Errorf(volume.KindDeadline, "%w; server %s is %s", err, a.ServerID, s.Status).
		WithRemedy("check the state of the server: openstack server show " + a.ServerID)
}

// conflictError adds the cause to Nova's response 409. Nova attaches and detaches only if no other
// operation on the server is running, the server is not locked, and its state allows it.
func (a Attachment) conflictError(ctx context.Context, err error) error {
	s, errServer := a.API.Server(ctx, a.ServerID)
	if errServer != nil {
		return err
	}
	switch s.Status {
	case "ERROR", "SUSPENDED", "RESCUE", "SOFT_DELETED", "SHELVED", "SHELVED_OFFLOADED":
		return volume.Errorf(volume.KindPrecondition, "server %s is %s: %w", a.ServerID, s.Status, err).
			WithRemedy("bring the server back to the state ACTIVE; if the server cannot be recovered, delete the Node object")
	case "DELETED":
		return volume.Errorf(volume.KindInProgress,
			"server %s is being deleted, and Nova detaches its volumes itself: %w", a.ServerID, err).
			WithRemedy(message.NoAction)
	}
	return volume.Errorf(volume.KindInProgress, "server %s is %s: %w", a.ServerID, s.Status, err).
		WithRemedy(message.Retries + "; if the server is locked, unlock it: openstack server unlock " + a.ServerID)
}
