package volume

import (
	"context"
	"time"
)

// Pause waits for d, unless ctx ends first; then it returns ctx's error.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Bounded waits for a call that cannot be interrupted, for as long as ctx
// lasts; then it returns ctx's error, and the call goes on behind it. Use
// Outlive where a lock must be kept meanwhile.
func Bounded[T any](ctx context.Context, call func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := call()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}
