package operation

import (
	"context"
	"time"
)

// Sleep waits for d, unless ctx ends first; then it returns ctx's error.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// WithMargin returns a context that ends before ctx's own deadline, so that an error
// that explains what is missing still reaches the caller: by margin, or by one
// part in so many of the time that is left, if that is less.
func WithMargin(ctx context.Context, margin time.Duration, parts int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-min(margin, time.Until(deadline)/time.Duration(parts))))
}

// AwaitCall waits for a call that cannot be interrupted, for as long as ctx
// lasts; then it returns ctx's error, and the call goes on behind it. Use
// Outlive where a lock must be kept meanwhile.
func AwaitCall[T any](ctx context.Context, call func() (T, error)) (T, error) {
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
