package operation

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

func TestLockDeviceNamesWorkThatHasNotFinished(t *testing.T) {
	var locks Locks
	lease, err := locks.LockDevice(t.Context(), "vol")
	if err != nil || !lease.IsHeld() {
		t.Fatalf("%v, held %t; want a lease with the lock", err, lease.IsHeld())
	}
	for cause, kind := range map[error]volume.Kind{
		context.Canceled: volume.KindCanceled, context.DeadlineExceeded: volume.KindDeadline,
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		_, err := locks.LockDevice(ctx, "vol")
		if !volume.IsKind(err, kind) || !errors.Is(err, cause) || !strings.Contains(err.Error(), "earlier operation") {
			t.Errorf("locked twice: %v, want kind %s", err, kind)
		}
	}
	lease.Release()
	if lease, err = locks.LockDevice(t.Context(), "vol"); err != nil {
		t.Errorf("after the release: %v", err)
	}
	lease.Release()
}

func TestRunOnDeviceBeginsNothingAfterItsContextHasEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	v, err := RunOnDevice(ctx, NewLease(nil), "the work", func(workCtx context.Context) (int, error) {
		cancel()
		return 7, workCtx.Err()
	})
	// The result or the end of ctx comes first; the work's own context does not end.
	if (v != 7 || err != nil) && !volume.IsKind(err, volume.KindCanceled) {
		t.Errorf("%d, %v", v, err)
	}
	_, err = RunOnDevice(ctx, NewLease(nil), "the work", func(context.Context) (int, error) {
		t.Error("the work began")
		return 0, nil
	})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "the work has not begun") {
		t.Errorf("%v, want that the work has not begun", err)
	}
}
