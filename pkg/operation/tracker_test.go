package operation

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// runDetached starts work that continues after its call and ends when proceed is closed.
func runDetached(t *testing.T, tracker *Tracker, id, what string, proceed <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(context.DeadlineExceeded)
	l := tracker.NewLease(id, func() {})
	defer l.Release()
	_, err := RunDetached(ctx, l, what, func() (int, error) { <-proceed; return 0, errors.New("no caller sees this") })
	if !volume.IsKind(err, volume.KindDeadline) {
		t.Fatalf("%v", err)
	}
}

func TestWaitReturnsWhenDetachedWorkHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tracker Tracker
		mkfs, growth, began := make(chan struct{}), make(chan struct{}), time.Now()
		runDetached(t, &tracker, "vol-1", "formatting", mkfs)
		time.Sleep(time.Minute) //nolint:forbidigo // the clock of the bubble
		runDetached(t, &tracker, "vol-2", "growing", growth)
		time.AfterFunc(time.Minute, func() { close(growth) })

		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		left := tracker.Wait(ctx)
		if want := (Detached{ID: "vol-1", What: "formatting", Since: began}); len(left) != 1 || left[0] != want {
			t.Errorf("left %v, want %v", left, want)
		}
		if took := time.Since(began); took != 3*time.Minute {
			t.Errorf("waited until %s after the start, want 3m", took)
		}
		time.AfterFunc(time.Minute, func() { close(mkfs) })
		if left := tracker.Wait(t.Context()); left != nil {
			t.Errorf("left %v, want none", left)
		}
		if took := time.Since(began); took != 4*time.Minute {
			t.Errorf("waited until %s after the start, want 4m", took)
		}
	})
}

func TestListIsSortedByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tracker Tracker
		proceed := make(chan struct{})
		for _, id := range []string{"a", "b", "c"} {
			runDetached(t, &tracker, id, "work", proceed)
			time.Sleep(time.Second) //nolint:forbidigo // the clock of the bubble
		}
		order := ""
		for _, w := range tracker.List() {
			order += w.ID
		}
		if order != "abc" {
			t.Errorf("listed %q", order)
		}
		close(proceed)
		tracker.Wait(t.Context())
	})
}

// Work is not detached while its call runs: the server waits for the call.
func TestTrackerDoesNotListWorkOfARunningCall(t *testing.T) {
	t.Parallel()
	var tracker Tracker
	l := tracker.NewLease("vol-1", func() {})
	defer l.Release()
	if _, err := RunDetached(t.Context(), l, "work", func() (int, error) {
		if all := tracker.List(); all != nil {
			t.Errorf("detached before its call has ended: %v", all)
		}
		return 0, nil
	}); err != nil {
		t.Error(err)
	}
	if all := tracker.List(); all != nil {
		t.Errorf("left %v", all)
	}
}

// The lock is released before Wait returns, also after a panic.
func TestTrackerListsWorkUntilItsLockIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tracker Tracker
		free, proceed := false, make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		l := tracker.NewLease("vol-1", func() {
			time.Sleep(time.Second) //nolint:forbidigo // the clock of the bubble
			free = true
		})
		_, err := RunDetached(ctx, l, "work", func() (int, error) { <-proceed; panic("oops") })
		if !volume.IsKind(err, volume.KindCanceled) {
			t.Errorf("%v", err)
		}
		if len(tracker.List()) != 1 {
			t.Error("the work is not detached")
		}
		close(proceed)
		if tracker.Wait(t.Context()); !free {
			t.Error("the lock is not free")
		}
	})
}

func TestNilTrackerListsNothing(t *testing.T) {
	t.Parallel()
	proceed := make(chan struct{})
	runDetached(t, nil, "vol-1", "work", proceed)
	var none *Tracker
	if none.List() != nil || none.Wait(t.Context()) != nil {
		t.Error("work is listed")
	}
	close(proceed)
}
