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

// Expand implements volume.Backend: it extends the volume to the target from whatever state the
// volume is in. It reports success only after reading the target size back: an accepted request
// proves nothing, because Cinder's scheduler can still refuse it; then Cinder restores the status
// and leaves the size. A volume in a failed state, or being deleted, is an error at any size.
func (b *Backend) Expand(ctx context.Context, id string, target volume.Size) (volume.Volume, error) {
	v, err := b.expand(ctx, id, target)
	if err != nil {
		return volume.Volume{}, volume.Wrap(err, "expand volume", id)
	}
	return b.toVolume(v), nil
}

const (
	// maxAttempts bounds the attempts of one call to extend or retype a volume. An attempt is lost
	// if another operation changes the volume after Expand or Modify has read it.
	maxAttempts = 3
	// confirmDelay is how long to wait before reading a volume again whose operation Cinder seems to
	// have refused: the API may answer from a replica that lags, and Cinder writes the message with
	// the reason after the status.
	confirmDelay = 500 * time.Millisecond
)

// expansion is one call of Expand.
type expansion struct {
	*Backend
	cloud  *cloud.Cloud
	target volume.Size // in whole GiB
}

// expand extends the volume until it has the target size, and returns it as read then.
func (b *Backend) expand(ctx context.Context, id string, target volume.Size) (cloud.Volume, error) {
	c, before, err := b.read(ctx, id)
	if err != nil {
		return before, err
	}
	size, ok := target.RoundUp(granularity)
	if !ok {
		return before, volume.Errorf(volume.KindOutOfRange, "the size %s is too large", target)
	}
	e, v := expansion{Backend: b, cloud: c, target: size}, before
	for range maxAttempts {
		if v, err = e.awaitExtendable(ctx, v); err == nil && cloud.SizeOf(v) < size {
			v, err = e.extend(ctx, v)
		}
		if err != nil {
			return v, err
		}
		if cloud.SizeOf(v) >= size {
			if e.needsNovaNotice(before, v) {
				e.notifyNova(ctx, v)
			}
			return v, nil
		}
	}
	return v, volume.Errorf(volume.KindInProgress,
		"%d attempts to extend the volume to %s were overtaken by another operation; the volume now has %s and the status %s",
		maxAttempts, size, cloud.SizeOf(v), v.Status).
		WithRemedy(message.NoAction)
}

// awaitExtendable waits until the volume is large enough or can be extended. It also waits for an
// extension of a volume that already has the target size: the extension may still fail, which
// Expand must report.
func (e expansion) awaitExtendable(ctx context.Context, v cloud.Volume) (cloud.Volume, error) {
	if cloud.SizeOf(v) < e.target || v.Status == state.Extending {
		var err error
		if v, err = e.awaitIdle(ctx, e.cloud, v); err != nil {
			return v, err
		}
	}
	switch {
	case state.HasFailed(v):
		return v, e.failedError(ctx, v)
	case v.Status == state.Deleting:
		// The error is not final, because Cinder may not complete the deletion.
		return v, volume.Errorf(volume.KindInProgress, "the volume is being deleted").
			WithRemedy(message.Retries + "; if the deletion is intended, delete the PersistentVolumeClaim too")
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

// failedError is the error for a volume in a failed state.
func (e expansion) failedError(ctx context.Context, v cloud.Volume) error {
	err := volume.Errorf(volume.KindInternal, "the volume is in the state %s (size %s)", v.Status, cloud.SizeOf(v))
	if v.Status == state.ErrorExtending {
		err.Msg += ": " + message.ExtensionReason(ctx, e.log, e.cloud, v, volume.KindInternal).Text
	}
	return err.WithRemedy(repairRemedy(v))
}

// extend requests the extension and waits for its end. If extend returns a volume below the target
// size without an error, another operation has changed the volume, and the caller tries again.
func (e expansion) extend(ctx context.Context, v cloud.Volume) (cloud.Volume, error) {
	if err := e.copies.Await(ctx, e.cloud, v.ID, "growing the volume now would cut off the copy"); err != nil {
		return v, err
	}
	isOnline := v.Status == state.InUse
	if isOnline {
		if err := e.checkOnlineExtend(ctx); err != nil {
			return v, err
		}
	}
	if err := e.cloud.ExtendVolume(ctx, v.ID, int(e.target/granularity), isOnline); err != nil {
		return e.rereadAfterFailedRequest(ctx, v, err)
	}
	after, err := e.pollers.Await(ctx, e.cloud, v.ID, "extend", state.IsNot(state.Extending))
	switch {
	case err != nil:
		return after, err
	case after.Status == state.ErrorExtending:
		return after, e.failedError(ctx, after)
	case cloud.SizeOf(after) >= e.target:
		return after, nil
	}
	return e.confirmRefusal(ctx, v)
}

// checkOnlineExtend returns an error unless the cloud extends volumes in use. Kind Precondition: it
// does not.
func (e expansion) checkOnlineExtend(ctx context.Context) error {
	err := e.cloud.CheckFeature(ctx, cloud.FeatureOnlineExtend)
	switch {
	case volume.IsKind(err, volume.KindUnsupported):
		return volume.Errorf(volume.KindPrecondition,
			"the volume is in use, but this cloud can extend volumes offline only: %w", err).
			WithRemedy("scale the workload to zero and wait until the volume is detached; Kubernetes then expands it")
	case err != nil:
		return volume.Errorf(volume.KindOf(err), "cannot find out whether this cloud extends volumes in use: %w", err)
	}
	return nil
}

// rereadAfterFailedRequest reads the volume again after Cinder did not accept a request, or its
// response was lost: Cinder may have accepted the request, or another client was faster. It returns
// no error if the volume has changed.
func (e expansion) rereadAfterFailedRequest(
	ctx context.Context, before cloud.Volume, cause error,
) (cloud.Volume, error) {
	switch volume.KindOf(cause) {
	case volume.KindUnavailable, volume.KindInvalid, volume.KindInProgress, volume.KindPrecondition, volume.KindInternal:
	default:
		return before, cause // the other kinds do not depend on the state of the volume
	}
	current, err := e.cloud.Volume(ctx, before.ID)
	switch {
	case volume.IsKind(err, volume.KindNotFound):
		return current, err
	case err != nil:
		return before, cause
	case cloud.SizeOf(current) > cloud.SizeOf(before), current.Status != before.Status:
		return current, nil
	case volume.IsKind(cause, volume.KindInvalid):
		return current, e.typeLimitError(ctx, current, cause)
	}
	return current, cause
}

// typeLimitError returns the error for a target above the largest size of the volume's type, or
// cause if the type does not explain why Cinder refused the extension.
func (e expansion) typeLimitError(ctx context.Context, v cloud.Volume, cause error) error {
	t, err := e.catalog.Type(ctx, e.cloud, v.VolumeType)
	if limit := volume.Size(t.MaxGiB) * granularity; err == nil && limit > 0 && e.target > limit {
		return volume.Errorf(volume.KindOutOfRange,
			"the volume type %s allows at most %s, but the requested size is %s: %w", t.Name, limit, e.target, cause).
			WithRemedy("lower the requested size of the PersistentVolumeClaim to " + limit.String() + " or less")
	}
	return cause
}

// confirmRefusal reads a volume again that settled with its old size after Cinder had accepted an
// extension. If that is still so, confirmRefusal returns an error with Cinder's reason.
func (e expansion) confirmRefusal(ctx context.Context, before cloud.Volume) (cloud.Volume, error) {
	if err := operation.Sleep(ctx, confirmDelay); err != nil {
		return before, volume.Errorf(volume.KindOf(err),
			"timed out before confirming that Cinder refused to extend the volume from %s to %s: %w",
			cloud.SizeOf(before), e.target, err)
	}
	v, err := e.cloud.Volume(ctx, before.ID)
	if err != nil || cloud.SizeOf(v) > cloud.SizeOf(before) || !state.IsSettled(v) {
		return v, err
	}
	reason := message.ExtensionReason(ctx, e.log, e.cloud, v, volume.KindOutOfRange)
	remedy := "lower the requested size of the PersistentVolumeClaim, or ask the cloud operator for more storage; " +
		"if the storage cannot extend volumes in use, detach the volume first"
	if reason.Kind == volume.KindInternal {
		remedy = "give this message to the cloud operator; meanwhile you may lower the requested size of the " +
			"PersistentVolumeClaim"
	}
	return v, volume.Errorf(reason.Kind, "Cinder did not extend the volume from %s to %s: %s (status %s)",
		cloud.SizeOf(before), e.target, reason.Text, v.Status).
		WithRemedy(remedy)
}

// needsNovaNotice reports whether Nova may not know the present size: the volume has grown in this
// call, or it has exactly the target size, which an earlier call may have reached without notifying
// Nova.
func (e expansion) needsNovaNotice(before, after cloud.Volume) bool {
	return cloud.SizeOf(after) > cloud.SizeOf(before) || cloud.SizeOf(after) == e.target
}

// notifyNova tells Nova that a volume in use has grown, once for each size, for clouds whose Cinder
// lacks the permission to do it. A failure is logged only: the extension is done, and the node
// reports a device that has not grown.
func (e expansion) notifyNova(ctx context.Context, v cloud.Volume) {
	notified, _ := e.notified.Load(v.ID)
	if !e.opts.NotifyNova || notified == cloud.SizeOf(v) {
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
			e.log.WarnContext(ctx, "cannot notify Nova that the volume was extended; "+
				"the server may see the old size until it is rebooted",
				"volume", v.ID, "server", server, "error", err,
				"remedy", "ask the cloud operator to give Cinder's user in Nova the role service, or to allow "+
					"the user of this driver the policy os_compute_api:os-server-external-events:create")
		}
	}
	if len(servers) > 0 && !hasFailed {
		e.notified.Store(v.ID, cloud.SizeOf(v))
	}
}
