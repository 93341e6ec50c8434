package catalog

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// remembered is a value that is read again when it is older than maxAge. Errors are not
// remembered.
type remembered[T any] struct {
	maxAge time.Duration
	lock   chan struct{} // guards value and readAt; unlike a Mutex, the wait for it ends with a context
	value  T
	readAt time.Time   // when the request was sent
	stale  atomic.Bool // forget was called
}

func remember[T any](maxAge time.Duration) *remembered[T] {
	return &remembered[T]{maxAge: maxAge, lock: make(chan struct{}, 1)}
}

// get returns the value, which read reads if necessary. Of several calls at the same time one
// reads and the others wait for it. The error of a wait that ends with ctx names what is read.
func (r *remembered[T]) get(ctx context.Context, name string, read func() (T, error)) (T, error) {
	select {
	case r.lock <- struct{}{}:
		defer func() { <-r.lock }()
	case <-ctx.Done():
		var zero T
		return zero, volume.Errorf(volume.KindOf(ctx.Err()), "waiting for the %s of the cloud: %w", name, ctx.Err())
	}
	if !r.stale.Load() && time.Since(r.readAt) <= r.maxAge {
		return r.value, nil
	}
	start := time.Now()
	value, err := read()
	if err == nil {
		r.value, r.readAt = value, start
		r.stale.Store(false)
	}
	return value, err
}

// forget makes the next get read the value again.
func (r *remembered[T]) forget() { r.stale.Store(true) }
