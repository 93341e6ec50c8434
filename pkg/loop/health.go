package loop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/growvol/growvol/pkg/volume"
)

// Health implements volume.HealthReporter by the volume's files.
func (b *Backend) Health(_ context.Context, id string) ([]volume.Condition, error) {
	conditions, err := b.conditions(id)
	return conditions, volume.Wrap(err, "check volume", id)
}

// ListHealth implements volume.HealthLister. It reads volumes until the page is
// full, so that only the last page can be empty.
func (b *Backend) ListHealth(ctx context.Context, page volume.Page) ([]volume.Health, string, error) {
	impaired, next, err := b.listHealth(ctx, page)
	return impaired, next, volume.Wrap(err, "check volumes", "")
}

func (b *Backend) listHealth(ctx context.Context, page volume.Page) (impaired []volume.Health, next string, err error) {
	after, err := volumes.parseToken(page.Token)
	if err != nil {
		return nil, "", err
	}
	ids, err := b.store.ids(volumes)
	if err != nil {
		return nil, "", err
	}
	start, found := slices.BinarySearch(ids, after)
	if found {
		start++
	}
	for _, id := range ids[start:] {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		conditions, err := b.conditions(id)
		switch {
		case missing(err):
			continue // deleted meanwhile
		case err != nil:
			return nil, "", err
		case len(conditions) == 0:
			continue
		case page.Max > 0 && len(impaired) == page.Max:
			return impaired, volumes.token(impaired[len(impaired)-1].ID), nil
		}
		impaired = append(impaired, volume.Health{ID: id, Conditions: conditions})
	}
	return impaired, "", nil
}

// damageError says that files of an object are missing or make no sense.
type damageError struct{ error }

func (e damageError) Unwrap() error { return e.error }

// conditions judges a volume by its files. Kind NotFound: there is none. An
// error in reading that may pass is not a condition but an error.
func (b *Backend) conditions(id string) ([]volume.Condition, error) {
	o, err := b.store.load(volumes, id)
	dir := b.store.path(volumes, id)
	switch damage := (damageError{}); {
	case err == nil && o.size%granule == 0 && o.size > 0:
		return nil, nil
	case err == nil:
		return dataLost("DataTruncated", fmt.Sprintf("the file with the volume's data has %s: something has cut it off, "+
			"for the sizes of volumes are multiples of %s", o.size, granule)), nil
	case !errors.As(err, &damage):
		return nil, err
	}
	if _, err := os.Lstat(b.store.data(volumes, id)); errors.Is(err, fs.ErrNotExist) {
		return dataLost("DataMissing", "the file with the volume's data is not in "+dir), nil
	}
	return []volume.Condition{{Impairment: volume.ImpairmentInaccessible, Reason: "RecordDamaged", Message: err.Error()}}, nil
}

func dataLost(reason, what string) []volume.Condition {
	what += " (next step: restore the volume from a snapshot)"
	return []volume.Condition{{Impairment: volume.ImpairmentDataLoss, Reason: reason, Message: what}}
}
