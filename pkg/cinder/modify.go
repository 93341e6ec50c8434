package cinder

import (
	"context"

	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Modify implements volume.Modifier: it changes the volume type (retype, in Cinder's words), then
// adds metadata. Cinder can accept a new type and then restore the status with the old type, so
// Modify judges by the type.
func (b *Backend) Modify(ctx context.Context, id string, parameters map[string]string) error {
	return volume.Wrap(b.modify(ctx, id, parameters), "modify volume", id)
}

func (b *Backend) modify(ctx context.Context, id string, parameters map[string]string) error {
	want, err := class.ParseAttributes(parameters)
	if err != nil {
		return err
	}
	c, v, err := b.read(ctx, id)
	if err != nil {
		return err
	}
	if want.Type != "" {
		if v, err = b.changeType(ctx, c, v, want); err != nil {
			return err
		}
	}
	return addMetadata(ctx, c, v, want.Metadata)
}

// changeType gives the volume the type that is asked for, and returns the volume as read then.
func (b *Backend) changeType(
	ctx context.Context, c *cloud.Cloud, v cloud.Volume, want class.Attributes,
) (cloud.Volume, error) {
	t, err := b.catalog.Type(ctx, c, want.Type)
	if err != nil {
		return v, err
	}
	for range maxAttempts {
		if v, err = b.awaitRetypable(ctx, c, v); err != nil || v.VolumeType == t.Name {
			return v, err
		}
		if v, err = b.retype(ctx, c, v, t, want.Policy); err != nil || v.VolumeType == t.Name {
			return v, err
		}
	}
	return v, volume.Errorf(volume.KindInProgress,
		"the volume has the type %s and is %s: something else works on it each time that its type is to become %s",
		v.VolumeType, v.Status, t.Name).
		WithRemedy(message.NoAction)
}

// awaitRetypable waits until Cinder does nothing with the volume, such as an earlier change of its
// type. Kind Internal: the volume is in a failed state, or being deleted.
func (b *Backend) awaitRetypable(ctx context.Context, c *cloud.Cloud, v cloud.Volume) (cloud.Volume, error) {
	v, err := b.awaitIdle(ctx, c, v)
	if err == nil && !state.IsSettled(v) {
		return v, volume.Errorf(volume.KindInternal, "the volume is in the state %s", v.Status).WithRemedy(repairRemedy(v))
	}
	return v, err
}

// retype asks for the type and waits for the end. If it returns no error and the volume has another
// type, the caller judges the volume again.
func (b *Backend) retype(
	ctx context.Context, c *cloud.Cloud, v cloud.Volume, t cloud.VolumeType, policy string,
) (cloud.Volume, error) {
	if err := c.Retype(ctx, v.ID, t.Name, policy); err != nil {
		now, errRead := c.Volume(ctx, v.ID)
		if errRead == nil && (now.VolumeType == t.Name || now.Status != v.Status) {
			return now, nil // Cinder has accepted it all the same, or another client was faster
		}
		return v, err
	}
	after, err := b.pollers.Await(ctx, c, v.ID, "retype", state.IsNot(state.Retyping))
	if err != nil || after.VolumeType == t.Name || !state.IsSettled(after) {
		return after, err
	}
	if err := operation.Sleep(ctx, confirmDelay); err != nil {
		return after, err
	}
	again, err := c.Volume(ctx, v.ID)
	if err != nil || again.VolumeType == t.Name || !state.IsSettled(again) {
		return again, err
	}
	reason := b.reasons.OfVolume(ctx, c, again, volume.KindInvalid)
	remedy := "choose another type, or ask the cloud operator for more storage"
	if policy == class.PolicyNever {
		// Cinder changed nothing, and never will unless the class changes.
		reason.Kind = volume.KindInvalid
		remedy = "choose a type of the same backend, or allow the volume to move: " +
			class.ParamPolicy + ": " + class.PolicyOnDemand + " in the VolumeAttributesClass"
	}
	return again, volume.Errorf(reason.Kind, "Cinder accepted the change from type %s to %s, but then refused it: "+
		"the volume is %s again and still has the type %s; %s",
		v.VolumeType, t.Name, again.Status, again.VolumeType, reason.Text).WithRemedy(remedy)
}

// addMetadata sets metadata of a volume and reads them back; other keys stay as they are. It does
// nothing if the volume has them already.
func addMetadata(ctx context.Context, c *cloud.Cloud, v cloud.Volume, want map[string]string) error {
	if len(metadata.Missing(v.Metadata, want)) == 0 {
		return nil
	}
	errSet := c.SetVolumeMetadata(ctx, v.ID, want)
	now, err := c.Volume(ctx, v.ID)
	missing := metadata.Missing(now.Metadata, want)
	switch {
	case err == nil && len(missing) == 0:
		return nil
	case errSet != nil:
		return errSet
	case err != nil:
		return err
	}
	return volume.Errorf(volume.KindUnavailable,
		"Cinder accepted the metadata of the volume, but it still lacks %s", message.JoinAtMost(missing)).
		WithRemedy(message.Retries + "; if it lasts, ask the cloud operator whether metadata are restricted")
}
