package loop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/volume"
)

// Health implements volume.VolumeHealthReporter: it checks the volume's files.
func (b *Backend) Health(_ context.Context, id string) ([]volume.Condition, error) {
	conditions, err := b.conditions(id)
	return conditions, volume.Wrap(err, "check volume", id)
}

// ListHealth implements volume.VolumeHealthLister. It reads volumes until the page is full, so
// that only the last page can be empty.
func (b *Backend) ListHealth(ctx context.Context, page volume.Page) ([]volume.Health, string, error) {
	impaired, next, err := listPage(ctx, &b.store, volumedir.Volumes, page, func(id string) (volume.Health, bool, error) {
		conditions, err := b.conditions(id)
		return volume.Health{ID: id, Conditions: conditions}, len(conditions) > 0, err
	})
	return impaired, next, volume.Wrap(err, "check volumes", "")
}

// conditions returns what is wrong with a volume's files. An I/O error, which may pass,
// is returned as an error, not as a condition. The error is of kind NotFound if there is no
// such volume.
func (b *Backend) conditions(id string) ([]volume.Condition, error) {
	o, err := b.store.Load(volumedir.Volumes, id)
	_, isDamaged := errors.AsType[volumedir.DamageError](err)
	switch {
	case err == nil && o.Size%granularity == 0 && o.Size > 0:
		return nil, nil
	case err == nil:
		return dataLoss("DataTruncated", fmt.Sprintf("the file with the volume's data was truncated to %s, "+
			"which is not a size of a volume (a multiple of %s)", o.Size, granularity)), nil
	case !isDamaged:
		return nil, err
	}
	if _, err := os.Lstat(b.store.DataPath(volumedir.Volumes, id)); errors.Is(err, fs.ErrNotExist) {
		dir := b.store.Path(volumedir.Volumes, id)
		return dataLoss("DataMissing", "the file with the volume's data is missing in "+dir), nil
	}
	return []volume.Condition{
		{Impairment: volume.ImpairmentInaccessible, Reason: "RecordDamaged", Message: err.Error()},
	}, nil
}

func dataLoss(reason, what string) []volume.Condition {
	what += " (next step: restore the volume from a snapshot)"
	return []volume.Condition{{Impairment: volume.ImpairmentDataLoss, Reason: reason, Message: what}}
}
