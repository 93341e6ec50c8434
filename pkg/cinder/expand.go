package cinder

import (
	"context"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// extendAttempts bounds how often one call asks for the extension, for the
	// case that the volume's state changes between reading and asking.
	extendAttempts = 3
	// confirmAfter is how long after the first reading of a refusal the second
	// is taken. A reading can come from a database that lags behind; and the
	// message with the reason is written after the status.
	confirmAfter = 500 * time.Millisecond
)

// Expand implements volume.Backend. It drives the volume to the target from
// whatever state it is in, and judges by the size alone: Cinder's scheduler can
// refuse an extension after it was accepted, puts the status back as it was, and
// leaves the size.
func (b *Backend) Expand(ctx context.Context, id string, target volume.Size) (volume.Volume, error) {
	c, err := b.cloudOf(ctx, id)
	if err != nil {
		return volume.Volume{}, volume.Wrap(err, "expand volume", id)
	}
	before, err := c.Volume(ctx, id)
	if err != nil {
		return volume.Volume{}, volume.Wrap(err, "expand volume", id)
	}
	v, err := b.expand(ctx, c, before, target)
	if err != nil {
		return volume.Volume{}, volume.Wrap(err, "expand volume", id)
	}
	if hasGrown(before, v, target) {
		b.notify(ctx, c, v)
	}
	return b.volume(v), nil
}

func (b *Backend) expand(ctx context.Context, c *cloud.Cloud, v cloud.Volume, target volume.Size) (cloud.Volume, error) {
	var err error
	for range extendAttempts {
		v, err = b.readyToExtend(ctx, c, v, target)
		if err != nil || cloud.SizeOf(v) >= target {
			return v, err
		}
		if err := b.awaitCopies(ctx, c, v.ID, "be cut off if the volume grew now"); err != nil {
			return v, err
		}
		if v, err = b.extend(ctx, c, v, target); err != nil || cloud.SizeOf(v) >= target {
			return v, err
		}
	}
	return v, volume.Errorf(volume.KindInProgress, "the volume has %s and is %s: something else works on it each time it is to be extended to %s", cloud.SizeOf(v), v.Status, target).
		WithRemedy("no action needed: Kubernetes retries this automatically")
}

// readyToExtend waits until the volume is large enough, or can be extended.
func (b *Backend) readyToExtend(ctx context.Context, c *cloud.Cloud, v cloud.Volume, target volume.Size) (cloud.Volume, error) {
	// One that is being extended is waited for also when it has the size: the
	// end may be an error, which must not be passed over.
	if cloud.SizeOf(v) < target || v.Status == stateExtending {
		var err error
		if v, err = b.awaitSettled(ctx, c, v); err != nil {
			return v, err
		}
	}
	switch {
	case v.Status == stateErrorExtending:
		return v, b.brokenExtension(ctx, c, v)
	case failed(v):
		return v, volume.Errorf(volume.KindInternal, "the volume is in the state %s, with %s", v.Status, cloud.SizeOf(v)).
			WithRemedy("the operator of the cloud has to see to it, and then reset the state (openstack volume set --state)")
	case v.Status == stateDeleting:
		// Cinder may fail to delete it, or take the deletion back.
		return v, volume.Errorf(volume.KindInProgress, "the volume is being deleted").
			WithRemedy("Kubernetes retries this automatically; delete the claim if its volume is to go")
	}
	return v, nil
}

// brokenExtension is the error for a volume that Cinder's driver failed to
// extend.
func (b *Backend) brokenExtension(ctx context.Context, c *cloud.Cloud, v cloud.Volume) error {
	before := stateAvailable
	if len(v.Attachments) > 0 {
		before = stateInUse
	}
	return volume.Errorf(volume.KindInternal, "the volume is in the state %s, with %s: %s", v.Status, cloud.SizeOf(v), b.reasonAbout(ctx, c, v, actionExtend, volume.KindInternal).text).
		WithRemedy("an administrator of the cloud has to check the volume and reset its state: openstack volume set --state " + before + " " + v.ID)
}

// extend asks Cinder for the extension and waits for what becomes of it. A
// volume that comes back smaller than the target without an error is to be
// looked at anew: something else has worked on it.
func (b *Backend) extend(ctx context.Context, c *cloud.Cloud, v cloud.Volume, target volume.Size) (cloud.Volume, error) {
	online := v.Status == stateInUse
	if online {
		if err := c.CheckFeature(ctx, cloud.FeatureOnlineExtend); err != nil {
			kind := volume.KindOf(err)
			if kind == volume.KindUnsupported {
				kind = volume.KindPrecondition
			}
			return v, volume.Errorf(kind, "the volume is in use, and this cloud can extend volumes offline only: %w", err).
				WithRemedy("scale the workload to zero, wait until the volume is detached, and have it expanded then")
		}
	}
	size, ok := target.RoundUp(granule)
	if !ok {
		return v, volume.Errorf(volume.KindOutOfRange, "the size %s cannot be rounded up to whole GiB", target)
	}
	if err := c.ExtendVolume(ctx, v.ID, int(size/granule), online); err != nil {
		return b.afterRefusal(ctx, c, v, target, err)
	}
	after, err := b.await(ctx, c, v.ID, "extend", func(v cloud.Volume) (bool, error) { return v.Status != stateExtending, nil })
	switch {
	case err != nil:
		return after, err
	case after.Status == stateErrorExtending:
		return after, b.brokenExtension(ctx, c, after)
	case cloud.SizeOf(after) >= target:
		return after, nil
	}
	return b.confirmRefusal(ctx, c, v, target)
}

// afterRefusal judges an extension that was not accepted, or whose answer got
// lost, by reading the volume again: maybe it was accepted after all, or
// somebody else had been faster.
func (b *Backend) afterRefusal(ctx context.Context, c *cloud.Cloud, before cloud.Volume, target volume.Size, cause error) (cloud.Volume, error) {
	switch volume.KindOf(cause) {
	case volume.KindUnavailable, volume.KindInvalid, volume.KindInProgress, volume.KindPrecondition, volume.KindInternal:
	default:
		return before, cause // the others say nothing about the volume's state
	}
	now, err := c.Volume(ctx, before.ID)
	switch {
	case volume.IsKind(err, volume.KindNotFound):
		return now, err
	case err != nil:
		return before, cause
	case cloud.SizeOf(now) >= target, cloud.SizeOf(now) > cloud.SizeOf(before), now.Status != before.Status:
		return now, nil // the caller goes on from this reading
	case volume.IsKind(cause, volume.KindInvalid):
		return now, b.typeLimit(ctx, c, now, target, cause)
	}
	return now, cause
}

// typeLimit tells whether the type's limit explains why Cinder does not take an
// extension.
func (b *Backend) typeLimit(ctx context.Context, c *cloud.Cloud, v cloud.Volume, target volume.Size, cause error) error {
	t, err := b.typeNamed(ctx, c, v.VolumeType)
	if most := volume.Size(t.MaxGiB) * granule; err == nil && most > 0 && target > most {
		return volume.Errorf(volume.KindOutOfRange, "volumes of the type %s have %s at most, %s were asked for: %w", t.Name, most, target, cause).
			WithRemedy("ask for at most " + most.String())
	}
	return cause
}

// confirmRefusal handles a volume that has settled with its old size after an
// extension had been accepted: Cinder's scheduler refused it. That is read
// twice before it is said.
func (b *Backend) confirmRefusal(ctx context.Context, c *cloud.Cloud, before cloud.Volume, target volume.Size) (cloud.Volume, error) {
	if err := operation.Sleep(ctx, confirmAfter); err != nil {
		return before, volume.Errorf(volume.KindOf(err), "Cinder seems to have refused the extension from %s to %s, and the time ran out in making sure of it: %w", cloud.SizeOf(before), target, err)
	}
	v, err := c.Volume(ctx, before.ID)
	if err != nil || cloud.SizeOf(v) > cloud.SizeOf(before) || !settled(v) {
		return v, err
	}
	why := b.reasonAbout(ctx, c, v, actionExtend, volume.KindOutOfRange)
	remedy := "ask for less, or have the operator of the cloud make room; a volume of a backend that cannot extend volumes in use must be detached first"
	if why.kind == volume.KindInternal {
		remedy = "give the message to the operator of the cloud; the request may be lowered meanwhile"
	}
	return v, volume.Errorf(why.kind, "Cinder accepted the extension from %s to %s and then refused it: the volume is %s again and has %s still; %s",
		cloud.SizeOf(before), target, v.Status, cloud.SizeOf(v), why.text).WithRemedy(remedy)
}

// hasGrown reports whether the volume has grown to the target: in this call, or,
// when it has exactly the target's size already, in an earlier one, which may
// have ended before it told Nova.
func hasGrown(before, after cloud.Volume, target volume.Size) bool {
	size, ok := target.RoundUp(granule)
	return cloud.SizeOf(after) > cloud.SizeOf(before) || ok && cloud.SizeOf(after) == size
}

// notify tells Nova that a volume in use has grown, for clouds whose Cinder may
// not do it; of each size it is told once. The extension stands also when this
// fails, or takes long; the node will say that the device has not grown.
func (b *Backend) notify(ctx context.Context, c *cloud.Cloud, v cloud.Volume) {
	if !b.opts.NotifyNova || b.toldSize(v.ID) == cloud.SizeOf(v) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience(ctx))
	defer cancel()
	all := servers(v)
	failed := false
	for _, server := range all {
		err := c.CheckFeature(ctx, cloud.FeatureExternalEvents)
		if err == nil {
			err = c.NotifyExtended(ctx, server, v.ID)
		}
		if err != nil {
			failed = true
			b.log.WarnContext(ctx, "could not tell Nova that a volume has grown; its guest may not see the new size before it is rebooted",
				"volume", v.ID, "server", server, "error", err,
				"remedy", "give Cinder's user in Nova the role service, or the user of this driver the right os_compute_api:os-server-external-events:create")
		}
	}
	if len(all) > 0 && !failed {
		b.noteTold(v.ID, cloud.SizeOf(v))
	}
}

func (b *Backend) toldSize(id string) volume.Size {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.told[id]
}

func (b *Backend) noteTold(id string, size volume.Size) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told[id] = size
}
