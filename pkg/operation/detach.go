package operation

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// Lease is a lock (of Locks, or any other) on its way from a call to work that
// may outlive it. The zero value holds none.
type Lease struct {
	unlock   func()
	id       string   // of what the work is done on
	detached *Tracker // nil: nobody asks for work that outlives its call
}

// NewLease takes charge of a lock's release. Work that outlives its call with
// this lease is not accounted for; see Detached.NewLease.
func NewLease(unlock func()) *Lease { return &Lease{unlock: unlock} }

// Add takes charge of the release of one more lock. The last one taken is the
// first to be released.
func (l *Lease) Add(unlock func()) {
	before := *l
	l.unlock = func() {
		unlock()
		before.Release()
	}
}

// IsHeld tells whether the lock is here still: it was neither released nor
// handed over to work that goes on.
func (l *Lease) IsHeld() bool { return l.unlock != nil }

// Release frees the lock, unless it has been handed over to work that goes on.
func (l *Lease) Release() {
	if l.unlock != nil {
		l.unlock()
		l.unlock = nil
	}
}

// RunDetached runs work that must not be cut short with the call: the kernel
// cannot be interrupted in a growth, and a format or a copy that starts over
// with each retry never ends. When ctx ends first, the work goes on, keeps the
// lease's lock until it is done, and the error (of kind Deadline or Canceled)
// says what is under way. The retry waits for that lock and finds the work
// done. The work must not use ctx for what is to go on. The Detached that made
// the lease knows of the work until it has ended and its lock is free.
//
// A panic of the work is passed on to the caller, whose server can deal with
// it. When the caller has gone it is logged; it never ends the process.
func RunDetached[T any](ctx context.Context, l *Lease, what string, work func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
		panic string // value and stack; empty: none
	}
	var mu sync.Mutex
	var unlock func() // set, under mu, once the call has gone: the lock is the work's to free
	done := make(chan result, 1)
	started := time.Now()
	go func() {
		var r result
		defer func() {
			if p := recover(); p != nil {
				r.panic = fmt.Sprintf("%v\n%s", p, debug.Stack())
			}
			mu.Lock()
			defer mu.Unlock()
			done <- r
			if unlock == nil {
				return
			}
			unlock()
			if r.panic != "" {
				slog.ErrorContext(ctx, "panic in work that outlived its call", "work", what, "panic", r.panic)
			}
		}()
		r.value, r.err = work()
	}()
	end := func(r result) (T, error) {
		if r.panic != "" {
			panic(r.panic)
		}
		return r.value, r.err
	}
	select {
	case r := <-done:
		return end(r)
	case <-ctx.Done():
	}
	mu.Lock()
	defer mu.Unlock()
	select { // a result that came at the last moment is worth more than a timeout
	case r := <-done:
		return end(r)
	default:
	}
	handed, ended := *l, l.detached.add(Detached{ID: l.id, What: what, Since: started})
	unlock = func() {
		defer ended()
		handed.Release()
	}
	l.unlock = nil
	var zero T
	return zero, &volume.Error{
		Kind: volume.KindOf(context.Cause(ctx)), Msg: what + " is still under way", Cause: context.Cause(ctx),
		Remedy: "nothing needs to be done: it goes on, and the next call finds it done",
	}
}
