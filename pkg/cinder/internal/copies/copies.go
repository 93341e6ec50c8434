// Package copies lists the copies (clones, restored volumes, snapshots) that this process has
// requested and that Cinder may not have completed. Meanwhile their source may be attached and
// detached, but two operations on it must wait (Copies.Await):
//
// An expansion: Cinder records the size of a copy when it accepts the request, and reads the source
// later. If the source grows in between, the recorded size is too small, and the RBD driver cuts
// off the clone at that size (cinder/volume/drivers/rbd.py, _extend_if_required).
//
// A deletion: Cinder waits for a copy that it has begun, but not for one that it has only accepted,
// which then fails.
package copies

import (
	"context"
	"maps"
	"sync"

	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/poll"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
)

// Kind is the kind of a copy.
type Kind string

// The kinds of copies.
const (
	Volume   Kind = "volume"
	Snapshot Kind = "snapshot"
)

// Copies lists the copies that Cinder may not have completed, by source. New makes one.
type Copies struct {
	pollers *poll.Group

	mu       sync.Mutex
	bySource map[string]map[string]Kind // by source id and copy id
}

// New returns an empty Copies that waits for volumes with pollers.
func New(pollers *poll.Group) *Copies {
	return &Copies{pollers: pollers, bySource: make(map[string]map[string]Kind)}
}

// Add records a copy that Cinder has accepted.
func (k *Copies) Add(source, id string, kind Kind) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.bySource[source] == nil {
		k.bySource[source] = make(map[string]Kind)
	}
	k.bySource[source][id] = kind
}

// Remove drops a copy that Cinder has completed, or never will.
func (k *Copies) Remove(source, id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.bySource[source], id)
	if len(k.bySource[source]) == 0 {
		delete(k.bySource, source)
	}
}

// Forget drops all copies of a source that is gone.
func (k *Copies) Forget(source string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.bySource, source)
}

// Of returns the copies of a source: their kinds by their ids.
func (k *Copies) Of(source string) map[string]Kind {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.bySource[source])
}

// Await waits until Cinder has completed, or failed to complete, the copies of a source. It waits
// only for a share of the remaining time: the caller holds the lock of the source, which other
// calls may need, and a copy can take hours. reason is a sentence for the error that says why the
// caller must wait. Kind InProgress: a copy is not complete.
func (k *Copies) Await(ctx context.Context, api poll.Reader, source, reason string) error {
	ctx, cancel := poll.WithShare(ctx)
	defer cancel()
	for id, kind := range k.Of(source) {
		err := k.await(ctx, api, id, kind)
		switch {
		case err == nil, volume.IsKind(err, volume.KindNotFound):
			k.Remove(source, id)
		case volume.IsKind(err, volume.KindDeadline):
			return volume.Errorf(volume.KindInProgress,
				"Cinder is still making the %s %s from it; %s: %w", kind, id, reason, err).
				WithRemedy(message.IfPersists + "check the state of the " + string(kind))
		default:
			return err
		}
	}
	return nil
}

// await waits until Cinder has completed, or failed to complete, one copy. It reads a volume once
// before it waits with the poller, whose first read comes later: most copies are complete.
func (k *Copies) await(ctx context.Context, api poll.Reader, id string, kind Kind) error {
	if kind == Snapshot {
		_, err := poll.AwaitSnapshot(ctx, api, id, state.Creating)
		return err
	}
	v, err := api.Volume(ctx, id)
	if volume.IsKind(err, volume.KindNotFound) || err == nil && v.Status != state.Creating {
		return err
	}
	_, err = k.pollers.Await(ctx, api, id, "clone", state.IsNot(state.Creating))
	return err
}
