package operation

import "context"

// AwaitExclusive is AwaitCall for a call that can hang with a device or a filesystem.
// It holds the lock id until the call itself returns, also after ctx has ended, so
// that a device that hangs costs one thread, however often it is read. It returns
// ctx's error when ctx ends first, before the call or during it. A call must not make
// another one with the same id.
func AwaitExclusive[T any](ctx context.Context, locks *Locks, id string, call func() (T, error)) (T, error) {
	unlock, err := locks.Lock(ctx, id)
	if err != nil {
		var zero T
		return zero, ctx.Err()
	}
	return AwaitCall(ctx, func() (T, error) {
		defer unlock()
		return call()
	})
}
