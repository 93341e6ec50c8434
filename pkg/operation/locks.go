package operation

import (
	"context"
	"slices"
	"sync"

	"github.com/growvol/growvol/pkg/volume"
)

// Locks serializes work per volume id. Unlike the "operation already exists"
// answer of other drivers a second caller waits, as long as its context
// lasts, and then finds the work done. The zero value is ready to use.
type Locks struct {
	mu    sync.Mutex
	locks map[string]*lockEntry
}

type lockEntry struct {
	slot  chan struct{} // holds one token while the lock is taken
	users int           // holder and waiters; the entry is dropped at zero
}

// Lock waits until id is free and takes it. The returned function releases
// it; further calls of it do nothing. The error is of kind InProgress when
// the context ends first: somebody else still works on the volume.
func (l *Locks) Lock(ctx context.Context, id string) (unlock func(), err error) {
	e := l.enter(id)
	// A context that has ended must not win the race for a free lock.
	if ctx.Err() == nil {
		select {
		case e.slot <- struct{}{}:
			return sync.OnceFunc(func() { <-e.slot; l.leave(id, e) }), nil
		case <-ctx.Done():
		}
	}
	l.leave(id, e)
	return nil, &volume.Error{
		Kind: volume.KindInProgress, ID: id, Msg: "another operation on this volume has not finished", Cause: context.Cause(ctx),
		Remedy: "it will be retried; look at the log for the operation that holds the volume if this lasts",
	}
}

// LockWithSource takes the locks of source and ids, in a fixed order, so that
// two callers with the same ids cannot block one another for ever. Duplicates
// and empty ids are passed over. unlockSource releases the lock of source
// alone, and unlock all that are still held. Both may be called more than once.
func (l *Locks) LockWithSource(ctx context.Context, source string, ids ...string) (unlock, unlockSource func(), err error) {
	var unlocks []func()
	unlock, unlockSource = func() {
		for i := len(unlocks) - 1; i >= 0; i-- {
			unlocks[i]()
		}
	}, func() {}
	for _, id := range sortedUnique(append(slices.Clone(ids), source)) {
		u, err := l.Lock(ctx, id)
		if err != nil {
			unlock()
			return nil, nil, err
		}
		unlocks = append(unlocks, u)
		if id == source {
			unlockSource = u
		}
	}
	return unlock, unlockSource, nil
}

func (l *Locks) enter(id string) *lockEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.locks[id]
	if e == nil {
		if l.locks == nil {
			l.locks = make(map[string]*lockEntry)
		}
		e = &lockEntry{slot: make(chan struct{}, 1)}
		l.locks[id] = e
	}
	e.users++
	return e
}

func (l *Locks) leave(id string, e *lockEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.users--; e.users == 0 {
		delete(l.locks, id)
	}
}

func sortedUnique(ids []string) []string {
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return id == "" })
	slices.Sort(ids)
	return slices.Compact(ids)
}
