package operation

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Detached is work that continues after its call has ended (see RunDetached).
type Detached struct {
	ID    string    // of the volume or snapshot
	What  string    // "growing the filesystem at …"
	Since time.Time // the start of the work
}

// Tracker lists detached work, so that a program can wait for it before it exits. The zero
// value is ready to use. The methods of a nil Tracker track nothing.
type Tracker struct {
	mu      sync.Mutex
	work    map[*Detached]struct{}
	changed chan struct{} // closed when the next work ends; nil: no Wait needs it
}

// NewLease returns a lease that owns a lock: unlock releases it (nil: no lock yet). The
// tracker lists work that RunDetached detaches with the lease under id, the id of the
// volume or snapshot.
func (t *Tracker) NewLease(id string, unlock func()) *Lease {
	return &Lease{unlock: unlock, id: id, tracker: t}
}

// List returns the detached work that has not ended, oldest first.
func (t *Tracker) List() []Detached {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.list()
}

func (t *Tracker) list() []Detached {
	var all []Detached
	for w := range t.work {
		all = append(all, *w)
	}
	slices.SortFunc(all, func(a, b Detached) int { return a.Since.Compare(b.Since) })
	return all
}

// Wait waits until all detached work has ended or ctx ends. It returns the work that has
// not ended by then.
func (t *Tracker) Wait(ctx context.Context) []Detached {
	if t == nil {
		return nil
	}
	for {
		t.mu.Lock()
		left := t.list()
		if t.changed == nil {
			t.changed = make(chan struct{})
		}
		changed := t.changed
		t.mu.Unlock()
		if len(left) == 0 || ctx.Err() != nil {
			return left
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// add lists w until ended is called.
func (t *Tracker) add(w Detached) (ended func()) {
	if t == nil {
		return func() {}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.work == nil {
		t.work = make(map[*Detached]struct{})
	}
	t.work[&w] = struct{}{}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.work, &w)
		if t.changed != nil {
			close(t.changed)
			t.changed = nil
		}
	}
}
