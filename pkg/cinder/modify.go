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

// Modify implements volume.Modifier: it changes the volume type (Cinder: retype), then adds
// metadata. It reports success only after reading the new type back: Cinder can accept a new type
// and then restore the status and leave the type.
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

// changeType changes the type of the volume to the requested one, and returns the volume as read
// then.
func (b *Backend) changeType(
	ctx context.Context, c *cloud.Cloud, v cloud.Volume, want class.Attributes,
) (cloud.Volume, error) {
	t, err := b.catalog.Type(ctx, c, want.Type)
	if err != nil {
		return v, err
	}
	for range maxAttempts {
		if v, err = b.awaitRetypable(ctx, c, v); err == nil && v.VolumeType != t.Name {
			v, err = b.retype(ctx, c, v, t, want.Policy)
		}
		if err != nil || v.VolumeType == t.Name {
			return v, err
		}
	}
	return v, volume.Errorf(volume.KindInProgress,
		"%d attempts to change the volume type to %s were overtaken by another operation; "+
			"the volume now has the type %s and the status %s",
		maxAttempts, t.Name, v.VolumeType, v.Status).
		WithRemedy(message.NoAction)
}

// awaitRetypable waits until no operation of Cinder on the volume is running, such as an earlier
// change of its type. Kind Internal: the volume is in a failed state, or being deleted.
func (b *Backend) awaitRetypable(ctx context.Context, c *cloud.Cloud, v cloud.Volume) (cloud.Volume, error) {
	v, err := b.awaitIdle(ctx, c, v)
	if err == nil && !state.IsSettled(v) {
		return v, volume.Errorf(volume.KindInternal, "the volume is in the state %s", v.Status).WithRemedy(repairRemedy(v))
	}
	return v, err
}

// retype requests the type and waits for the end. If retype returns a volume of another type
// without an error, another operation has changed the volume, and the caller tries again.
func (b *Backend) retype(
	ctx context.Context, c *cloud.Cloud, v cloud.Volume, t cloud.VolumeType, policy string,
) (cloud.Volume, error) {
	if err := c.Retype(ctx, v.ID, t.Name, policy); err != nil {
		current, errRead := c.Volume(ctx, v.ID)
		if errRead == nil && (current.VolumeType == t.Name || current.Status != v.Status) {
			return current, nil // Cinder has accepted the request, or another client was faster
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
	reason := message.VolumeReason(ctx, b.log, c, again, volume.KindInvalid)
	remedy := "use another volume type in the VolumeAttributesClass, or ask the cloud operator for more storage"
	if policy == class.PolicyNever {
		// A retry cannot succeed until the class is changed.
		reason.Kind = volume.KindInvalid
		remedy = "use a volume type of the same storage backend, or allow Cinder to move the volume: set " +
			class.ParamPolicy + ": " + class.PolicyOnDemand + " in the VolumeAttributesClass"
	}
	return again, volume.Errorf(reason.Kind, "Cinder did not change the volume type from %s to %s: %s (status %s)",
		again.VolumeType, t.Name, reason.Text, again.Status).
		WithRemedy(remedy)
}

// addMetadata sets metadata of a volume, unless it has them already, and reads them back. Other
// keys stay as they are.
func addMetadata(ctx context.Context, c *cloud.Cloud, v cloud.Volume, want map[string]string) error {
	if len(metadata.Missing(v.Metadata, want)) == 0 {
		return nil
	}
	errSet := c.SetVolumeMetadata(ctx, v.ID, want)
	current, err := c.Volume(ctx, v.ID)
	missing := metadata.Missing(current.Metadata, want)
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
		WithRemedy(message.IfPersists + "ask the cloud operator whether the cloud restricts metadata")
}
