package cloud

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/growvol/growvol/pkg/cinder/internal/transport"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// timeouts bound the logins and version requests that callers share. The deadline of a caller does
// not bound them: if a call ends earlier, the next call uses the result.
type timeouts struct {
	login           time.Duration // of a login with its retries
	loginAttempt    time.Duration
	versions        time.Duration // of a version request with its retries
	versionsAttempt time.Duration
	start           time.Duration // how long Open waits for a Keystone that does not answer
	ready           time.Duration // how long Ready waits for a login
}

func defaultTimeouts() timeouts {
	return timeouts{
		login: time.Minute, loginAttempt: 18 * time.Second,
		versions: 8 * time.Second, versionsAttempt: 3500 * time.Millisecond,
		start: 5 * time.Second, ready: 2 * time.Second,
	}
}

// tuning holds the timeouts and pauses that tests shorten.
type tuning struct {
	transport transport.Options
	timeouts  timeouts
}

// shared runs work, such as a login, once for all callers that need its result at the same time.
// The work does not end with the call that began it.
type shared[T any] struct{ group singleflight.Group }

// do starts work, or joins the work in progress, and waits for the result until ctx ends; then it
// returns ctx's error and the work continues. It starts nothing if ctx has already ended. The
// context of work has the values of ctx, and ends after timeout or with Clouds.Close.
func (s *shared[T]) do(
	ctx context.Context, cs *Clouds, timeout time.Duration, work func(context.Context) (T, error),
) (T, error) {
	if err := ctx.Err(); err != nil {
		var none T
		return none, err
	}
	return operation.AwaitCall(ctx, func() (T, error) {
		value, err, _ := s.group.Do("", func() (any, error) {
			ctx, end := cs.detach(ctx, timeout)
			defer end()
			return work(ctx)
		})
		result, _ := value.(T)
		return result, err
	})
}

// detach returns a context with the values of ctx that ends after timeout or with Close, which
// waits until end is called.
func (cs *Clouds) detach(ctx context.Context, timeout time.Duration) (_ context.Context, end func()) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.isClosed() {
		cancel() // the work fails at once
		return ctx, cancel
	}
	cs.backgroundWork.Add(1)
	stop := context.AfterFunc(cs.background, cancel)
	return ctx, func() {
		stop()
		cancel()
		cs.backgroundWork.Done()
	}
}

// asUnavailable changes kind Deadline of err into Unavailable: the timeout of the shared work has
// passed, not the deadline of the caller. It returns errors of other kinds unchanged.
func asUnavailable(err error, timeout time.Duration) error {
	if !volume.IsKind(err, volume.KindDeadline) {
		return err
	}
	var inner *volume.Error
	if !errors.As(err, &inner) {
		return volume.Errorf(volume.KindUnavailable, "no answer within %s: %w", timeout, err)
	}
	c := *inner
	c.Kind = volume.KindUnavailable
	return &c
}
