package catalog

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// cached is a value that is read again when it is older than maxAge. Errors are not cached.
type cached[T any] struct {
	maxAge time.Duration
	lock   chan struct{} // guards value and readAt; a channel, so that a wait for it can end with a context
	value  T
	readAt time.Time   // when the request was sent
	stale  atomic.Bool // forget was called
}

func newCached[T any](maxAge time.Duration) *cached[T] {
	return &cached[T]{maxAge: maxAge, lock: make(chan struct{}, 1)}
}

// get returns the value, and calls read if the value is too old. Of several calls at the same time
// one calls read and the others wait. name names the value in the error of a wait that ends with
// ctx.
func (c *cached[T]) get(ctx context.Context, name string, read func() (T, error)) (T, error) {
	select {
	case c.lock <- struct{}{}:
		defer func() { <-c.lock }()
	case <-ctx.Done():
		var zero T
		return zero, volume.Errorf(volume.KindOf(ctx.Err()), "cannot get the %s of the cloud: %w", name, ctx.Err())
	}
	if !c.stale.Load() && time.Since(c.readAt) <= c.maxAge {
		return c.value, nil
	}
	start := time.Now()
	value, err := read()
	if err == nil {
		c.value, c.readAt = value, start
		c.stale.Store(false)
	}
	return value, err
}

// forget makes the next get read the value again.
func (c *cached[T]) forget() { c.stale.Store(true) }
