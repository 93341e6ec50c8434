package operation

import (
	"context"
	"time"
)

// Sleep waits for d. If ctx ends first, Sleep returns ctx's error at once.
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

// WithMargin returns a context that ends before ctx's deadline, by margin or by 1/parts of
// the remaining time, whichever is smaller. The margin leaves time to send the caller an
// error that explains what is missing. Without a deadline WithMargin adds none.
func WithMargin(ctx context.Context, margin time.Duration, parts int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-min(margin, time.Until(deadline)/time.Duration(parts))))
}

// AwaitCall runs a call that cannot be interrupted and returns its result. If ctx ends
// first, AwaitCall returns ctx's error, and the call continues in the background. Use
// RunDetached where a lock must be held until the call ends.
func AwaitCall[T any](ctx context.Context, call func() (T, error)) (T, error) {
	done := make(chan result[T], 1)
	go func() {
		v, err := call()
		done <- result[T]{value: v, err: err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}
