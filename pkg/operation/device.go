package operation

import (
	"context"
	"fmt"

	"github.com/growvol/growvol/pkg/volume"
)

// LockDevice takes the lock of the device of the volume id, and returns the lease that owns
// the lock. Until ctx ends, it waits for work of an earlier call (see RunOnDevice). Kinds:
// Deadline, Canceled.
func (l *Locks) LockDevice(ctx context.Context, id string) (*Lease, error) {
	unlock, err := l.Lock(ctx, id)
	if err != nil {
		cause := context.Cause(ctx)
		return nil, volume.Errorf(volume.KindOf(cause),
			"an earlier operation on the volume's device has not finished: %w", cause).
			WithRemedy("no action needed: Kubernetes retries this automatically; " +
				"if it lasts, check the kernel log of this node for I/O that hangs")
	}
	return NewLease(unlock), nil
}

// RunOnDevice is RunDetached for work in which the kernel cannot be interrupted. The work
// does not begin if ctx has ended, and its own context does not end.
func RunOnDevice[T any](
	ctx context.Context, l *Lease, what string, work func(context.Context) (T, error),
) (T, error) {
	if err := ctx.Err(); err != nil {
		var zero T
		return zero, fmt.Errorf("%s has not begun: %w", what, err)
	}
	return RunDetached(ctx, l, what, func() (T, error) { return work(context.WithoutCancel(ctx)) })
}
