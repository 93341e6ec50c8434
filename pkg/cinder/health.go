package cinder

import (
	"context"
	"fmt"

	"github.com/growvol/growvol/pkg/volume"
)

// Health implements volume.HealthReporter by the volume's status.
func (b *Backend) Health(ctx context.Context, id string) ([]volume.Condition, error) {
	c, err := b.cloudOf(ctx, id)
	if err != nil {
		return nil, volume.Wrap(err, "check volume", id)
	}
	v, err := c.Volume(ctx, id)
	if err != nil {
		return nil, volume.Wrap(err, "check volume", id)
	}
	ill := func(i volume.Impairment, reason, remedy string) []volume.Condition {
		text := fmt.Sprintf("Cinder has the volume in the state %s", v.Status)
		if failed(v) {
			text += ": " + b.reasonOf(ctx, c, v, volume.Internal).text
		}
		return []volume.Condition{{Impairment: i, Reason: reason, Message: text + " (next step: " + remedy + ")"}}
	}
	const reset = "have the operator of the cloud check the volume and reset its state"
	switch {
	case v.Status == stateErrorExtending:
		return ill(volume.Degraded, "ExtensionFailed", reset), nil
	case v.Status == stateErrorDeleting:
		return ill(volume.Inaccessible, "DeletionFailed", reset), nil
	case v.Status == stateErrorRestoring:
		return ill(volume.DataLoss, "RestoreFailed", "restore the backup into a new volume"), nil
	case v.Status == stateMaintenance:
		return ill(volume.Degraded, "Maintenance", "wait for the operator of the cloud"), nil
	case failed(v) && len(v.Attachments) > 0:
		return ill(volume.Degraded, "VolumeError", reset), nil
	case failed(v):
		return ill(volume.Inaccessible, "VolumeError", reset), nil
	}
	return nil, nil
}
