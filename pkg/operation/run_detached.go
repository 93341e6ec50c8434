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

// Lease owns the release of a lock (of Locks or any other) while the lock passes from a
// call to work that may continue after the call. The zero value owns no lock.
type Lease struct {
	unlock  func()
	id      string   // of the volume or snapshot
	tracker *Tracker // lists the work once it is detached; nil: nothing does
}

// NewLease returns a lease that owns a lock: unlock releases it. No tracker lists work that
// is detached with it; see Tracker.NewLease.
func NewLease(unlock func()) *Lease { return &Lease{unlock: unlock} }

// Add makes the lease own one more lock. Release releases the lock added last first.
func (l *Lease) Add(unlock func()) {
	before := *l
	l.unlock = func() {
		unlock()
		before.Release()
	}
}

// IsHeld reports whether the lease still owns a lock: Release was not called, and no
// detached work has taken the lock over.
func (l *Lease) IsHeld() bool { return l.unlock != nil }

// Release releases the lock, unless detached work has taken it over.
func (l *Lease) Release() {
	if l.unlock != nil {
		l.unlock()
		l.unlock = nil
	}
}

// result is the outcome of the function that RunDetached or AwaitCall runs.
type result[T any] struct {
	value T
	err   error
	panic string // value and stack; empty: no panic
}

func (r result[T]) unwrap() (T, error) {
	if r.panic != "" {
		panic(r.panic)
	}
	return r.value, r.err
}

// RunDetached runs work that must not stop when ctx ends: the kernel cannot interrupt the
// growth of a filesystem, and a format or a copy that every retry starts again never ends.
// If ctx ends first, the work continues, takes the lease's lock over until it ends, and the
// error (kind Deadline or Canceled) names the work. The retry waits for the lock and finds
// the work done. The tracker of the lease lists the work until its lock is released. The
// work must not use ctx for what has to continue.
//
// RunDetached panics with the panic of the work, so that the server of the call can recover.
// After the call has ended, a panic of the work is logged and does not end the process.
func RunDetached[T any](ctx context.Context, l *Lease, what string, work func() (T, error)) (T, error) {
	var mu sync.Mutex
	var unlock func() // guarded by mu; set when the call has ended and the work owns the lock
	done := make(chan result[T], 1)
	started := time.Now()
	go func() {
		var r result[T]
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
				slog.ErrorContext(ctx, "detached work panicked", "work", what, "panic", r.panic)
			}
		}()
		r.value, r.err = work()
	}()
	select {
	case r := <-done:
		return r.unwrap()
	case <-ctx.Done():
	}
	mu.Lock()
	defer mu.Unlock()
	select { // the work may have ended together with ctx
	case r := <-done:
		return r.unwrap()
	default:
	}
	// The work now owns the lock, and releases it when it ends.
	handed, ended := *l, l.tracker.add(Detached{ID: l.id, What: what, Since: started})
	unlock = func() {
		defer ended()
		handed.Release()
	}
	l.unlock = nil
	var zero T
	return zero, &volume.Error{
		Kind: volume.KindOf(context.Cause(ctx)), Msg: what + " is still under way", Cause: context.Cause(ctx),
		Remedy: "no action needed: the operation continues and the next retry picks it up",
	}
}
