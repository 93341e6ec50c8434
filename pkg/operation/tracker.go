package operation

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Detached is work that has outlived its call (see Outlive).
type Detached struct {
	ID    string    // of the volume or snapshot
	What  string    // "growing the filesystem at …"
	Since time.Time // when it began
}

// Tracker knows the work that goes on after its call has ended, so that a
// program can wait for it before it ends itself. The zero value is ready to
// use; nil keeps no account.
type Tracker struct {
	mu      sync.Mutex
	work    map[*Detached]struct{}
	changed chan struct{} // closed at the next end of work; nil: nobody waits
}

// NewLease takes charge of a lock's release (nil: none yet), as the function
// NewLease does.
// Work that Outlive detaches with the lease is accounted for, under the id of
// its volume or snapshot.
func (d *Tracker) NewLease(id string, unlock func()) *Lease {
	return &Lease{unlock: unlock, id: id, detached: d}
}

// List returns the work that goes on, the oldest first.
func (d *Tracker) List() []Detached {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.list()
}

func (d *Tracker) list() []Detached {
	var all []Detached
	for w := range d.work {
		all = append(all, *w)
	}
	slices.SortFunc(all, func(a, b Detached) int { return a.Since.Compare(b.Since) })
	return all
}

// Wait waits until no detached work goes on, or ctx ends, and returns what
// still goes on then.
func (d *Tracker) Wait(ctx context.Context) []Detached {
	if d == nil {
		return nil
	}
	for {
		d.mu.Lock()
		left := d.list()
		if d.changed == nil {
			d.changed = make(chan struct{})
		}
		changed := d.changed
		d.mu.Unlock()
		if len(left) == 0 || ctx.Err() != nil {
			return left
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// add accounts for work until ended is called.
func (d *Tracker) add(w Detached) (ended func()) {
	if d == nil {
		return func() {}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.work == nil {
		d.work = make(map[*Detached]struct{})
	}
	d.work[&w] = struct{}{}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.work, &w)
		if d.changed != nil {
			close(d.changed)
			d.changed = nil
		}
	}
}
