package cinder

import (
	"context"
	"maps"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// copyKind is what is made from a volume or snapshot.
type copyKind string

const (
	copyVolume   copyKind = "volume"
	copySnapshot copyKind = "snapshot"
)

// copies are the volumes and snapshots that this process asked for and that
// Cinder may not have made yet, by the volume or snapshot that they are made
// from. The source may be attached and detached meanwhile. Two things wait:
//
// Cinder notes the size of a copy when it accepts it and reads the source later.
// If a source is extended in between, the size noted is wrong, and the driver of
// RBD cuts a clone off at it (cinder/volume/drivers/rbd.py, _extend_if_required).
//
// Cinder deletes a source that it is copying from after the copy, but a source
// whose copy it has not begun at once, and the copy fails.
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

// awaitCopies waits until Cinder has made the copies of a volume or snapshot, but
// for a part of the time left only: the caller holds the source's lock, and a copy
// can take hours, in which the source may have to be attached elsewhere. harm says
// what would become of a copy otherwise. Kind InProgress: Cinder has not made them.
func (b *Backend) awaitCopies(ctx context.Context, c *cloud.Cloud, source, harm string) error {
	ctx, cancel := context.WithTimeout(ctx, patience(ctx))
	defer cancel()
	for id, kind := range b.copiesOf(source) {
		err := b.awaitCopy(ctx, c, id, kind)
		switch {
		case err == nil, volume.IsKind(err, volume.KindNotFound):
			b.dropCopy(source, id)
		case volume.IsKind(err, volume.KindDeadline):
			return volume.Errorf(volume.KindInProgress, "Cinder is still making the %s %s from it, which would %s: %w", kind, id, harm, err).
				WithRemedy("no action needed: Kubernetes retries this automatically; if it lasts, check the state of that " + string(kind))
		default:
			return err
		}
	}
	return nil
}

// awaitCopy waits until Cinder has made, or failed to make, a copy. Most have been
// made long ago: a volume is read once before the poller, which takes its time, is
// asked to.
func (b *Backend) awaitCopy(ctx context.Context, c *cloud.Cloud, id string, kind copyKind) error {
	if kind == copySnapshot {
		_, err := awaitSnapshot(ctx, c, id, func(s cloud.Snapshot) bool { return s.Status != snapCreating })
		return err
	}
	v, err := c.Volume(ctx, id)
	if volume.IsKind(err, volume.KindNotFound) || err == nil && v.Status != stateCreating {
		return err
	}
	_, err = b.await(ctx, c, id, "clone", func(v cloud.Volume) (bool, error) { return v.Status != stateCreating, nil })
	return err
}
