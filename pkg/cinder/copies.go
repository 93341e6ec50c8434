package cinder

import (
	"context"
	"maps"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// copyKind is what is made from a volume.
type copyKind string

const (
	copyClone    copyKind = "volume"
	copySnapshot copyKind = "snapshot"
)

// copies are the clones and snapshots that this process asked for and that
// Cinder may not have made yet, by the volume that they are made from.
//
// Cinder notes the size of a copy when it accepts it and reads the source
// later. A source that is extended in between gives a copy that is cut off at
// the old size: the driver of RBD resizes a clone to the size noted
// (cinder/volume/drivers/rbd.py, _extend_if_required), that of LVM copies only
// as much of a snapshot. So Expand waits for them; attaching, detaching and
// deleting the source do them no harm.
type copies map[string]map[string]copyKind // by source and id of the copy

// noteCopy takes note of a copy that Cinder has accepted.
func (b *Backend) noteCopy(source, id string, kind copyKind) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.copies[source] == nil {
		b.copies[source] = make(map[string]copyKind)
	}
	b.copies[source][id] = kind
}

// dropCopy forgets a copy that has been made, or that never will be.
func (b *Backend) dropCopy(source, id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.copies[source], id)
	if len(b.copies[source]) == 0 {
		delete(b.copies, source)
	}
}

func (b *Backend) copiesOf(source string) map[string]copyKind {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.copies[source])
}

// awaitCopies waits until Cinder has made the copies of a volume. Kind
// InProgress: it has not within ctx.
func (b *Backend) awaitCopies(ctx context.Context, c *cloud.Cloud, source string) error {
	for id, kind := range b.copiesOf(source) {
		err := b.awaitCopy(ctx, c, id, kind)
		switch {
		case err == nil, volume.IsKind(err, volume.NotFound):
			b.dropCopy(source, id)
		case volume.IsKind(err, volume.Deadline):
			return volume.Errorf(volume.InProgress, "Cinder is still making the %s %s from the volume, which would be cut off if the volume grew meanwhile: %w", kind, id, err).
				WithRemedy("no action needed: Kubernetes retries this automatically; if it lasts, check the state of that " + string(kind))
		default:
			return err
		}
	}
	return nil
}

func (b *Backend) awaitCopy(ctx context.Context, c *cloud.Cloud, id string, kind copyKind) error {
	if kind == copySnapshot {
		_, err := awaitSnapshot(ctx, c, id, func(s cloud.Snapshot) bool { return s.Status != snapCreating })
		return err
	}
	_, err := b.await(ctx, c, id, "clone", func(v cloud.Volume) (bool, error) { return v.Status != stateCreating, nil })
	return err
}
