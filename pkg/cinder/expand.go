package cinder

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

// Expand implements volume.Backend. It extends the volume to the target from whatever state it is
// in, and judges by the size alone: Cinder's scheduler can refuse an extension that the API has
// accepted; then Cinder restores the status and leaves the size.
func (b *Backend) Expand(ctx context.Context, id string, target volume.Size) (volume.Volume, error) {
	v, err := b.expand(ctx, id, target)
	if err != nil {
		return volume.Volume{}, volume.Wrap(err, "expand volume", id)
	}
	return b.volume(v), nil
}

const (
	// maxAttempts bounds how often one call asks for an extension or a new type, for the case that the
	// state of the volume changes between reading and asking.
	maxAttempts = 3
	// confirmDelay is the time between the first and second reading of a refusal: the API may answer
	// from a replica that lags, and Cinder writes the message with the reason after the status.
	confirmDelay = 500 * time.Millisecond
)

func (b *Backend) expand(ctx context.Context, id string, target volume.Size) (cloud.Volume, error) {
	c, before, err := b.read(ctx, id)
	if err != nil {
		return before, err
	}
	e := expansion{Backend: b, cloud: c, target: target}
	v, err := e.run(ctx, before)
	if err == nil && e.hasGrown(before, v) {
		e.notifyNova(ctx, v)
	}
	return v, err
}

// expansion is one call of Expand.
type expansion struct {
	*Backend
	cloud  *cloud.Cloud
	target volume.Size
}

// run extends the volume until it has the target, and returns it as read then.
func (e expansion) run(ctx context.Context, v cloud.Volume) (cloud.Volume, error) {
	var err error
	for range maxAttempts {
		v, err = e.awaitExtendable(ctx, v)
		if err != nil || cloud.SizeOf(v) >= e.target {
			return v, err
		}
		if err := e.copies.Await(ctx, e.cloud, v.ID, "be cut off if the volume grew now"); err != nil {
			return v, err
		}
		if v, err = e.extend(ctx, v); err != nil || cloud.SizeOf(v) >= e.target {
			return v, err
		}
	}
	return v, volume.Errorf(volume.KindInProgress,
		"the volume has %s and is %s: something else works on it each time that it is to be extended to %s",
		cloud.SizeOf(v), v.Status, e.target).
		WithRemedy(message.NoAction)
}

// awaitExtendable waits until the volume is large enough or can be extended. It waits for a running
// extension also if the volume has the size: the extension may still fail, which Expand must
// report.
func (e expansion) awaitExtendable(ctx context.Context, v cloud.Volume) (cloud.Volume, error) {
	if cloud.SizeOf(v) < e.target || v.Status == state.Extending {
		var err error
		if v, err = e.awaitIdle(ctx, e.cloud, v); err != nil {
			return v, err
		}
	}
	switch {
	case v.Status == state.ErrorExtending:
		return v, e.failedExtensionError(ctx, v)
	case state.HasFailed(v):
		return v, volume.Errorf(volume.KindInternal, "the volume is in the state %s, with %s", v.Status, cloud.SizeOf(v)).
			WithRemedy(repairRemedy(v))
	case v.Status == state.Deleting:
		// Cinder may fail to delete it, or take the deletion back.
		return v, volume.Errorf(volume.KindInProgress, "the volume is being deleted").
			WithRemedy(message.Retries + "; delete the claim if its volume is to go")
	}
	return v, nil
}

// repairRemedy returns the next step for a volume in a failed state.
func repairRemedy(v cloud.Volume) string {
	usable := state.Available
	if len(v.Attachments) > 0 {
		usable = state.InUse
	}
	return "ask the cloud operator to repair the volume, then to reset its state: " +
		"openstack volume set --state " + usable + " " + v.ID
}

// failedExtensionError is the error for a volume that Cinder's driver failed to extend.
func (e expansion) failedExtensionError(ctx context.Context, v cloud.Volume) error {
	return volume.Errorf(volume.KindInternal, "the volume is in the state %s, with %s: %s",
		v.Status, cloud.SizeOf(v), e.reasons.OfExtension(ctx, e.cloud, v, volume.KindInternal).Text).
		WithRemedy(repairRemedy(v))
}

// extend asks Cinder for the extension and waits for its end. If it returns no error and the volume
// is smaller than the target, something else has worked on the volume, and the caller judges it
// again.
func (e expansion) extend(ctx context.Context, v cloud.Volume) (cloud.Volume, error) {
	isOnline := v.Status == state.InUse
	if isOnline {
		if err := e.cloud.CheckFeature(ctx, cloud.FeatureOnlineExtend); err != nil {
			kind := volume.KindOf(err)
			if kind == volume.KindUnsupported {
				kind = volume.KindPrecondition
			}
			return v, volume.Errorf(kind, "the volume is in use, but this cloud can extend volumes offline only: %w", err).
				WithRemedy("scale the workload to zero and wait until the volume is detached; Kubernetes then expands it")
		}
	}
	size, ok := e.target.RoundUp(granularity)
	if !ok {
		return v, volume.Errorf(volume.KindOutOfRange, "the size %s cannot be rounded up to whole GiB", e.target)
	}
	if err := e.cloud.ExtendVolume(ctx, v.ID, int(size/granularity), isOnline); err != nil {
		return e.resolveRefusal(ctx, v, err)
	}
	after, err := e.pollers.Await(ctx, e.cloud, v.ID, "extend", state.IsNot(state.Extending))
	switch {
	case err != nil:
		return after, err
	case after.Status == state.ErrorExtending:
		return after, e.failedExtensionError(ctx, after)
	case cloud.SizeOf(after) >= e.target:
		return after, nil
	}
	return e.confirmRefusal(ctx, v)
}

// resolveRefusal reads the volume again after a request that Cinder did not accept, or whose answer
// was lost: Cinder may have accepted it all the same, or another client was faster. It returns no
// error if the volume has changed.
func (e expansion) resolveRefusal(ctx context.Context, before cloud.Volume, cause error) (cloud.Volume, error) {
	switch volume.KindOf(cause) {
	case volume.KindUnavailable, volume.KindInvalid, volume.KindInProgress, volume.KindPrecondition, volume.KindInternal:
	default:
		return before, cause // the others say nothing about the state of the volume
	}
	now, err := e.cloud.Volume(ctx, before.ID)
	switch {
	case volume.IsKind(err, volume.KindNotFound):
		return now, err
	case err != nil:
		return before, cause
	case cloud.SizeOf(now) >= e.target, cloud.SizeOf(now) > cloud.SizeOf(before), now.Status != before.Status:
		return now, nil
	case volume.IsKind(cause, volume.KindInvalid):
		return now, e.typeLimitError(ctx, now, cause)
	}
	return now, cause
}

// typeLimitError returns the error for a target above the largest size of the volume's type, or
// cause if the type does not explain why Cinder refuses the extension.
func (e expansion) typeLimitError(ctx context.Context, v cloud.Volume, cause error) error {
	t, err := e.catalog.Type(ctx, e.cloud, v.VolumeType)
	if limit := volume.Size(t.MaxGiB) * granularity; err == nil && limit > 0 && e.target > limit {
		return volume.Errorf(volume.KindOutOfRange,
			"volumes of the type %s have at most %s, but %s were asked for: %w", t.Name, limit, e.target, cause).
			WithRemedy("ask for at most " + limit.String())
	}
	return cause
}

// confirmRefusal deals with a volume that has settled with its old size after Cinder had accepted
// an extension: Cinder's scheduler refused it. confirmRefusal reads the volume a second time before
// it returns that error.
func (e expansion) confirmRefusal(ctx context.Context, before cloud.Volume) (cloud.Volume, error) {
	if err := operation.Sleep(ctx, confirmDelay); err != nil {
		return before, volume.Errorf(volume.KindOf(err),
			"Cinder seems to have refused the extension from %s to %s, but the time ran out before a second reading: %w",
			cloud.SizeOf(before), e.target, err)
	}
	v, err := e.cloud.Volume(ctx, before.ID)
	if err != nil || cloud.SizeOf(v) > cloud.SizeOf(before) || !state.IsSettled(v) {
		return v, err
	}
	reason := e.reasons.OfExtension(ctx, e.cloud, v, volume.KindOutOfRange)
	remedy := "ask for less, or ask the cloud operator for more storage; " +
		"if the storage cannot extend volumes in use, detach the volume first"
	if reason.Kind == volume.KindInternal {
		remedy = "give this message to the cloud operator; you may lower the request in the meantime"
	}
	return v, volume.Errorf(reason.Kind,
		"Cinder accepted the extension from %s to %s, but then refused it: the volume is %s again and still has %s; %s",
		cloud.SizeOf(before), e.target, v.Status, cloud.SizeOf(v), reason.Text).WithRemedy(remedy)
}

// hasGrown reports whether the volume has grown to the target: in this call, or, if it has exactly
// the size of the target already, in an earlier one, which may have ended before it told Nova.
func (e expansion) hasGrown(before, after cloud.Volume) bool {
	size, ok := e.target.RoundUp(granularity)
	return cloud.SizeOf(after) > cloud.SizeOf(before) || ok && cloud.SizeOf(after) == size
}

// notifyNova tells Nova that a volume in use has grown, once for each size, for clouds whose Cinder
// may not do it. It logs a failure only: the extension is done, and the node reports a device that
// has not grown.
func (e expansion) notifyNova(ctx context.Context, v cloud.Volume) {
	if !e.opts.NotifyNova || e.notifiedSize(v.ID) == cloud.SizeOf(v) {
		return
	}
	ctx, cancel := poll.WithShare(ctx)
	defer cancel()
	servers := state.Servers(v)
	hasFailed := false
	for _, server := range servers {
		err := e.cloud.CheckFeature(ctx, cloud.FeatureExternalEvents)
		if err == nil {
			err = e.cloud.NotifyExtended(ctx, server, v.ID)
		}
		if err != nil {
			hasFailed = true
			e.log.WarnContext(ctx,
				"could not tell Nova that a volume has grown; its guest may not see the new size before the server is rebooted",
				"volume", v.ID, "server", server, "error", err,
				"remedy", "give Cinder's user in Nova the role service, "+
					"or the user of this driver the right os_compute_api:os-server-external-events:create")
		}
	}
	if len(servers) > 0 && !hasFailed {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.notified[v.ID] = cloud.SizeOf(v)
	}
}

func (b *Backend) notifiedSize(id string) volume.Size {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.notified[id]
}
