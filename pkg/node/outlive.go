package node

import (
	"context"
	"sync"

	"github.com/growvol/growvol/pkg/volume"
)

// lease is a volume's lock on its way from a call to work that outlives it.
type lease struct{ unlock func() }

// release frees the lock, unless it has been handed over.
func (l *lease) release() {
	if l.unlock != nil {
		l.unlock()
		l.unlock = nil
	}
}

// outlive runs work that must not be cut short with the call: the kernel
// cannot be interrupted in a growth, and a format that starts over with each
// retry never ends. When ctx ends first, the work goes on, keeps the volume's
// lock until it is done, and the error (of kind Deadline or Canceled) says
// what is under way. The retry waits for that lock and finds the work done.
func outlive[T any](ctx context.Context, l *lease, what string, work func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var mu sync.Mutex
	var unlock func() // set, under mu, once the call has gone: the lock is the work's to free
	done := make(chan result, 1)
	go func() {
		v, err := work()
		mu.Lock()
		defer mu.Unlock()
		done <- result{v, err}
		if unlock != nil {
			unlock()
		}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
	}
	mu.Lock()
	defer mu.Unlock()
	select { // a result that came at the last moment is worth more than a timeout
	case r := <-done:
		return r.value, r.err
	default:
	}
	unlock, l.unlock = l.unlock, nil
	var zero T
	return zero, &volume.Error{
		Kind: volume.KindOf(context.Cause(ctx)), Msg: what + " is still under way", Cause: context.Cause(ctx),
		Remedy: "nothing needs to be done: it goes on, and the next call finds it done",
	}
}
