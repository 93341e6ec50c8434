package cinder

import (
	"context"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// Health implements volume.HealthReporter by the volume's status. What Cinder
// says about a failure is part of the message.
func (b *Backend) Health(ctx context.Context, id string) ([]volume.Condition, error) {
	c, err := b.cloudOf(ctx, id)
	if err != nil {
		return nil, volume.Wrap(err, "check volume", id)
	}
	v, err := c.Volume(ctx, id)
	if err != nil {
		return nil, volume.Wrap(err, "check volume", id)
	}
	reason := ""
	if failed(v) {
		reason = b.reasonOf(ctx, c, v, volume.KindInternal).text
	}
	return conditions(v, reason), nil
}

// ListHealth implements volume.HealthLister: as Health, for the volumes that
// ListVolumes lists, and from the listing alone. So the messages lack what
// Cinder says about a failure, which takes a call for each volume. One page of
// Cinder's, the largest it gives, is read at a time: it may have no volume that
// anything is wrong with.
func (b *Backend) ListHealth(ctx context.Context, page volume.Page) ([]volume.Health, string, error) {
	read, err := b.list(ctx, volume.Page{Token: page.Token})
	if err != nil {
		return nil, "", volume.Wrap(err, "check volumes", "")
	}
	impaired, next := impairedOf(read, page.Max)
	b.duplicates.addPage(ctx, page.Token, read, next)
	return impaired, next, nil
}

// impairedOf returns the volumes of a page that have adverse conditions, at most
// so many if most is above 0, and the token of what comes next.
func impairedOf(read listPage, most int) (impaired []volume.Health, next string) {
	for _, v := range read.volumes {
		found := conditions(v, "")
		switch {
		case len(found) == 0:
			continue
		case most > 0 && len(impaired) == most:
			return impaired, impaired[len(impaired)-1].ID + "@" + read.part
		}
		impaired = append(impaired, volume.Health{ID: v.ID, Conditions: found})
	}
	return impaired, read.next
}

// conditions judges a volume by its status. reason is what Cinder says about
// it, if that was asked for.
func conditions(v cloud.Volume, reason string) []volume.Condition {
	condition := func(i volume.Impairment, name, remedy string) []volume.Condition {
		text := "Cinder has the volume in the state " + v.Status
		if reason != "" {
			text += ": " + reason
		}
		text += " (next step: " + remedy + ")"
		return []volume.Condition{{Impairment: i, Reason: name, Message: text}}
	}
	const reset = "have the operator of the cloud check the volume and reset its state"
	switch {
	case v.Status == stateErrorExtending:
		return condition(volume.ImpairmentDegraded, "ExtensionFailed", reset)
	case v.Status == stateErrorDeleting:
		return condition(volume.ImpairmentInaccessible, "DeletionFailed", reset)
	case v.Status == stateErrorRestoring:
		return condition(volume.ImpairmentDataLoss, "RestoreFailed", "restore the backup into a new volume")
	case v.Status == stateMaintenance:
		return condition(volume.ImpairmentDegraded, "Maintenance", "wait for the operator of the cloud")
	case failed(v) && len(v.Attachments) > 0:
		return condition(volume.ImpairmentDegraded, "VolumeError", reset)
	case failed(v):
		return condition(volume.ImpairmentInaccessible, "VolumeError", reset)
	}
	return nil
}
