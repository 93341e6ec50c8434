package cinder

import (
	"context"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// Modify implements volume.Modifier: it changes the volume type (Cinder calls
// that retyping), then adds metadata. Cinder can accept the type and then put the
// status back with the old one, so it is judged by the type.
func (b *Backend) Modify(ctx context.Context, id string, parameters map[string]string) error {
	return volume.Wrap(b.modify(ctx, id, parameters), "modify volume", id)
}

func (b *Backend) modify(ctx context.Context, id string, parameters map[string]string) error {
	change, err := mutable(parameters)
	if err != nil {
		return err
	}
	c, err := b.cloudOf(ctx, id)
	if err != nil {
		return err
	}
	v, err := c.Volume(ctx, id)
	if err != nil {
		return err
	}
	if change.volType != "" {
		if v, err = b.changeType(ctx, c, v, change); err != nil {
			return err
		}
	}
	return b.addMetadata(ctx, c, v, change.metadata)
}

// changeType gives the volume the type that is asked for, and returns it as it is then.
func (b *Backend) changeType(ctx context.Context, c *cloud.Cloud, v cloud.Volume, change mutations) (cloud.Volume, error) {
	t, err := b.typeNamed(ctx, c, change.volType)
	if err != nil {
		return v, err
	}
	for range extendAttempts {
		if v, err = b.readyToRetype(ctx, c, v); err != nil || v.VolumeType == t.Name {
			return v, err
		}
		if v, err = b.retype(ctx, c, v, t, change.policy); err != nil || v.VolumeType == t.Name {
			return v, err
		}
	}
	return v, volume.Errorf(volume.KindInProgress, "the volume has the type %s and is %s: something else works on it each time it is to become %s", v.VolumeType, v.Status, t.Name).
		WithRemedy("it will be retried")
}

// readyToRetype waits for the end of what goes on with the volume, such as an
// earlier change of its type.
func (b *Backend) readyToRetype(ctx context.Context, c *cloud.Cloud, v cloud.Volume) (cloud.Volume, error) {
	v, err := b.awaitSettled(ctx, c, v)
	if err == nil && !settled(v) {
		return v, volume.Errorf(volume.KindInternal, "the volume is in the state %s", v.Status).
			WithRemedy("the operator of the cloud has to see to it, and then reset the state (openstack volume set --state)")
	}
	return v, err
}

// retype asks for the type and waits for what becomes of it. A volume that
// comes back with another type without an error is to be looked at anew.
func (b *Backend) retype(ctx context.Context, c *cloud.Cloud, v cloud.Volume, t cloud.VolumeType, policy string) (cloud.Volume, error) {
	if err := c.Retype(ctx, v.ID, t.Name, policy); err != nil {
		now, errRead := c.Volume(ctx, v.ID)
		if errRead == nil && (now.VolumeType == t.Name || now.Status != v.Status) {
			return now, nil // accepted after all, or something else came first
		}
		return v, err
	}
	after, err := b.await(ctx, c, v.ID, "retype", func(v cloud.Volume) (bool, error) { return v.Status != stateRetyping, nil })
	if err != nil || after.VolumeType == t.Name || !settled(after) {
		return after, err
	}
	if err := operation.Sleep(ctx, confirmAfter); err != nil {
		return after, err
	}
	again, err := c.Volume(ctx, v.ID)
	if err != nil || again.VolumeType == t.Name || !settled(again) {
		return again, err
	}
	why := b.reasonOf(ctx, c, again, volume.KindInvalid)
	remedy := "choose another type, or have the operator of the cloud make room"
	if policy == policyNever {
		// Nothing was changed, and it never will be unless the class is.
		why.kind = volume.KindInvalid
		remedy = "choose a type of the same backend, or allow the volume to move: " + paramPolicy + ": " + policyOnDemand + " in the VolumeAttributesClass"
	}
	return again, volume.Errorf(why.kind, "Cinder accepted the change from type %s to %s and then refused it: the volume is %s again and has the type %s still; %s",
		v.VolumeType, t.Name, again.Status, again.VolumeType, why.text).WithRemedy(remedy)
}
