package cloud

import (
	"context"
	"errors"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/transport"
	"github.com/growvol/growvol/pkg/volume"
)

// limits bound the logins and version requests that callers share. No caller's
// deadline bounds them: its call may end earlier, and the next one uses the
// result.
type limits struct {
	login           time.Duration // of a login with its retries
	loginAttempt    time.Duration
	versions        time.Duration // of a version request with its retries
	versionsAttempt time.Duration
	start           time.Duration // how long Open waits for a Keystone that does not answer
	ready           time.Duration // how long Ready waits for a login
}

func defaultLimits() limits {
	return limits{
		login: time.Minute, loginAttempt: 18 * time.Second,
		versions: 8 * time.Second, versionsAttempt: 3500 * time.Millisecond,
		start: 5 * time.Second, ready: 2 * time.Second,
	}
}

// tuning is what tests shorten.
type tuning struct {
	transport transport.Options
	limits    limits
}

// detach runs work in a goroutine of its own that does not end with ctx. The
// context of work has the values of ctx and the given limit; Close ends it and
// waits for work to return.
func (cs *Clouds) detach(ctx context.Context, limit time.Duration, work func(context.Context)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.closed {
		cancel() // work fails at once
		go work(ctx)
		return
	}
	cs.detached.Go(func() {
		defer cancel()
		work(ctx)
	})
	cs.detached.Go(func() {
		select {
		case <-cs.closing:
			cancel()
		case <-ctx.Done():
		}
	})
}

// result is what shared work returns.
type result[T any] struct {
	value T
	err   error
}

// share waits for its turn, does the work detached and waits for the result,
// for as long as ctx lasts; then it returns ctx's error, and the work goes on.
// The work must first look whether the one before it has left nothing to do.
func share[T any](ctx context.Context, cs *Clouds, turn chan struct{}, limit time.Duration, work func(context.Context) (T, error)) (T, error) {
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
	return await(ctx, begin(ctx, cs, turn, limit, work))
}

// begin does the work detached. The caller has the turn, which is free for the
// next one before the result is there.
func begin[T any](ctx context.Context, cs *Clouds, turn chan struct{}, limit time.Duration, work func(context.Context) (T, error)) <-chan result[T] {
	done := make(chan result[T], 1)
	cs.detach(ctx, limit, func(ctx context.Context) {
		value, err := work(ctx)
		<-turn
		done <- result[T]{value, err}
	})
	return done
}

// await waits for a result for as long as ctx lasts.
func await[T any](ctx context.Context, done <-chan result[T]) (T, error) {
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
	}
	select { // a result that came at the last moment is worth more than a timeout
	case r := <-done:
		return r.value, r.err
	default:
		var zero T
		return zero, ctx.Err()
	}
}

// beyondLimit turns the end of a limit of our own into kind Unavailable: the
// callers have deadlines of their own.
func beyondLimit(err error, limit time.Duration) error {
	if !volume.IsKind(err, volume.KindDeadline) {
		return err
	}
	var inner *volume.Error
	if !errors.As(err, &inner) {
		return volume.Errorf(volume.KindUnavailable, "no answer within %s: %w", limit, err)
	}
	c := *inner
	c.Kind = volume.KindUnavailable
	return &c
}
