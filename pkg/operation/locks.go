package operation

import (
	"context"
	"slices"
	"sync"

	"github.com/growvol/growvol/pkg/volume"
)

// Locks serializes the operations on each volume. A second caller waits, as long as its
// context lasts, and then finds the work of the first one done; other drivers refuse it
// with "operation already exists". The zero value is ready to use.
type Locks struct {
	mu    sync.Mutex
	locks map[string]*lockEntry // by volume id
}

type lockEntry struct {
	held  chan struct{} // contains one element while the lock is held
	users int           // the holder and the waiters; the entry is removed at zero
}

// Lock waits until no other caller holds the lock of id, and takes it. unlock releases it;
// further calls of unlock do nothing. The error has kind InProgress: ctx ended first.
func (l *Locks) Lock(ctx context.Context, id string) (unlock func(), err error) {
	e := l.addUser(id)
	// select chooses at random: an ended context must not get a free lock.
	if ctx.Err() == nil {
		select {
		case e.held <- struct{}{}:
			return sync.OnceFunc(func() { <-e.held; l.removeUser(id, e) }), nil
		case <-ctx.Done():
		}
	}
	l.removeUser(id, e)
	return nil, &volume.Error{
		Kind: volume.KindInProgress, ID: id,
		Msg:   "another operation on this volume has not finished",
		Cause: context.Cause(ctx),
		Remedy: "Kubernetes retries this automatically; " +
			"if the error persists, find the other operation by this id in the plugin's log",
	}
}

// LockWithSource takes the locks of source and ids. It takes them in sorted order, so that
// two callers cannot block each other for ever. It ignores duplicates and empty ids.
// unlockSource releases the lock of source alone, unlock all locks that are still held.
// Further calls of both do nothing. The error has kind InProgress: ctx ended first.
func (l *Locks) LockWithSource(
	ctx context.Context, source string, ids ...string,
) (unlock, unlockSource func(), err error) {
	var unlocks []func()
	unlock, unlockSource = func() {
		for _, u := range slices.Backward(unlocks) {
			u()
		}
	}, func() {}
	ids = append(slices.Clone(ids), source)
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		if id == "" {
			continue
		}
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

// HasWaiters reports whether a caller waits for the lock of id, which another one holds.
func (l *Locks) HasWaiters(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.locks[id]
	return e != nil && e.users > 1
}

func (l *Locks) addUser(id string) *lockEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.locks[id]
	if e == nil {
		if l.locks == nil {
			l.locks = make(map[string]*lockEntry)
		}
		e = &lockEntry{held: make(chan struct{}, 1)}
		l.locks[id] = e
	}
	e.users++
	return e
}

func (l *Locks) removeUser(id string, e *lockEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.users--; e.users == 0 {
		delete(l.locks, id)
	}
}
