// Package copies knows the clones, restored volumes and snapshots that this process has asked
// for and that Cinder may not have made yet. Their source may be attached and detached
// meanwhile, but two operations on it must wait:
//
// An expansion: Cinder records the size of a copy when it accepts it and reads the source
// later. If the source grows in between, the recorded size is wrong, and the RBD driver cuts
// a clone off at it (cinder/volume/drivers/rbd.py, _extend_if_required).
//
// A deletion: Cinder deletes a source only after a copy that it has begun, but at once if it
// has not begun the copy, which then fails.
package copies

import (
	"context"
	"maps"
	"sync"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/poll"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
)

// Kind is what is made from a source.
type Kind string

// The kinds of copies.
const (
	Volume   Kind = "volume"
	Snapshot Kind = "snapshot"
)

// API is what Await reads of a cloud.
type API interface {
	poll.NamedReader
	poll.SnapshotReader
}

// Poller waits for volumes.
type Poller interface {
	Await(
		ctx context.Context, api poll.NamedReader, id, op string, done func(cloud.Volume) bool,
	) (cloud.Volume, error)
}

// Copies are the copies that Cinder may not have made yet, by their source. New makes one.
type Copies struct {
	poller Poller

	mu       sync.Mutex
	bySource map[string]map[string]Kind // by id of the source and of the copy
}

// New returns Copies that await volumes with poller.
func New(poller Poller) *Copies {
	return &Copies{poller: poller, bySource: make(map[string]map[string]Kind)}
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

// Remove drops a copy that Cinder has made, or never will.
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

// Of returns the kinds of the copies of a source by their ids.
func (k *Copies) Of(source string) map[string]Kind {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.bySource[source])
}

// Await waits until Cinder has made, or failed to make, the copies of a source. It waits only
// for a share of the remaining time: the caller holds the lock of the source, and a copy can
// take hours, in which the source may have to be attached elsewhere. harm says what would happen
// to a copy otherwise. Kind InProgress: Cinder is still making one.
func (k *Copies) Await(ctx context.Context, api API, source, harm string) error {
	ctx, cancel := poll.WithShare(ctx)
	defer cancel()
	for id, kind := range k.Of(source) {
		err := k.await(ctx, api, id, kind)
		switch {
		case err == nil, volume.IsKind(err, volume.KindNotFound):
			k.Remove(source, id)
		case volume.IsKind(err, volume.KindDeadline):
			return volume.Errorf(volume.KindInProgress,
				"Cinder is still making the %s %s from it, which would %s: %w", kind, id, harm, err).
				WithRemedy(message.Retries + "; if it lasts, check the state of that " + string(kind))
		default:
			return err
		}
	}
	return nil
}

// await waits until Cinder has made, or failed to make, one copy. It reads a volume once before
// it asks the poller, which reads only after some time: most copies were made long ago.
func (k *Copies) await(ctx context.Context, api API, id string, kind Kind) error {
	if kind == Snapshot {
		_, err := poll.AwaitSnapshot(ctx, api, id, state.Creating)
		return err
	}
	v, err := api.Volume(ctx, id)
	if volume.IsKind(err, volume.KindNotFound) || err == nil && v.Status != state.Creating {
		return err
	}
	_, err = k.poller.Await(ctx, api, id, "clone", state.IsNot(state.Creating))
	return err
}
