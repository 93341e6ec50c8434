package cinder

import (
	"context"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
)

// Health implements volume.VolumeHealthReporter: it derives the conditions from the volume's
// status. The message of a failure contains Cinder's reason.
func (b *Backend) Health(ctx context.Context, id string) ([]volume.Condition, error) {
	c, v, err := b.read(ctx, id)
	if err != nil {
		return nil, volume.Wrap(err, "check volume", id)
	}
	reason := ""
	if state.HasFailed(v) {
		reason = message.VolumeReason(ctx, b.log, c, v, volume.KindInternal).Text
	}
	return conditions(v, reason), nil
}

// ListHealth implements volume.VolumeHealthLister for the volumes that ListVolumes lists. Its
// messages lack Cinder's reason for a failure, which would take a request for each volume. Each
// call reads one page of Cinder, of the largest size, and returns the volumes of the page that have
// a condition: an empty page is not necessarily the last.
func (b *Backend) ListHealth(ctx context.Context, page volume.Page) ([]volume.Health, string, error) {
	read, err := b.list(ctx, volume.Page{Token: page.Token})
	if err != nil {
		return nil, "", volume.Wrap(err, "check volumes", "")
	}
	impaired, next := findImpaired(read, page.Max)
	b.countDuplicates(ctx, page.Token, read, next)
	return impaired, next, nil
}

// findImpaired returns the volumes of a page that have conditions, at most limit of them (0: all),
// and the token to continue after them.
func findImpaired(read listPage, limit int) (impaired []volume.Health, next string) {
	for _, v := range read.volumes {
		found := conditions(v, "")
		switch {
		case len(found) == 0:
			continue
		case limit > 0 && len(impaired) == limit:
			return impaired, read.token(impaired[len(impaired)-1].ID)
		}
		impaired = append(impaired, volume.Health{ID: v.ID, Conditions: found})
	}
	return impaired, read.next
}

// conditions returns the conditions of a volume with this status. reason is Cinder's reason for the
// status, or empty.
func conditions(v cloud.Volume, reason string) []volume.Condition {
	condition := func(i volume.Impairment, name, remedy string) []volume.Condition {
		text := "the volume is in the state " + v.Status
		if reason != "" {
			text += ": " + reason
		}
		text += " (next step: " + remedy + ")"
		return []volume.Condition{{Impairment: i, Reason: name, Message: text}}
	}
	repair := repairRemedy(v)
	switch {
	case v.Status == state.ErrorExtending:
		return condition(volume.ImpairmentDegraded, "ExtensionFailed", repair)
	case v.Status == state.ErrorDeleting:
		return condition(volume.ImpairmentInaccessible, "DeletionFailed", repair)
	case v.Status == state.ErrorRestoring:
		return condition(volume.ImpairmentDataLoss, "RestoreFailed", "restore the backup into a new volume")
	case v.Status == state.Maintenance:
		return condition(volume.ImpairmentDegraded, "Maintenance", "wait until the cloud operator ends the maintenance")
	case state.HasFailed(v) && len(v.Attachments) > 0:
		return condition(volume.ImpairmentDegraded, "VolumeError", repair)
	case state.HasFailed(v):
		return condition(volume.ImpairmentInaccessible, "VolumeError", repair)
	}
	return nil
}
