package operation

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// detach starts work that outlives its call, and ends when goOn is closed.
func detach(t *testing.T, d *Tracker, id, what string, goOn <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(context.DeadlineExceeded)
	l := d.NewLease(id, func() {})
	defer l.Release()
	if _, err := RunDetached(ctx, l, what, func() (int, error) { <-goOn; return 0, errors.New("nobody hears of it") }); !volume.IsKind(err, volume.KindDeadline) {
		t.Fatalf("%v", err)
	}
}

func TestDetachedWorkIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d Tracker
		mkfs, growth, began := make(chan struct{}), make(chan struct{}), time.Now()
		detach(t, &d, "vol-1", "formatting", mkfs)
		time.Sleep(time.Minute) //nolint:forbidigo // the clock of the bubble
		detach(t, &d, "vol-2", "growing", growth)
		time.AfterFunc(time.Minute, func() { close(growth) })

		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		left := d.Wait(ctx)
		if want := (Detached{ID: "vol-1", What: "formatting", Since: began}); len(left) != 1 || left[0] != want {
			t.Errorf("left %v, want %v", left, want)
		}
		if took := time.Since(began); took != 3*time.Minute {
			t.Errorf("waited until %s after the start, want 3m", took)
		}
		time.AfterFunc(time.Minute, func() { close(mkfs) })
		if left := d.Wait(t.Context()); left != nil {
			t.Errorf("left %v, want none", left)
		}
		if took := time.Since(began); took != 4*time.Minute {
			t.Errorf("waited until %s after the start, want 4m", took)
		}
	})
}

func TestDetachedListsTheOldestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d Tracker
		goOn := make(chan struct{})
		for _, id := range []string{"a", "b", "c"} {
			detach(t, &d, id, "work", goOn)
			time.Sleep(time.Second) //nolint:forbidigo // the clock of the bubble
		}
		order := ""
		for _, w := range d.List() {
			order += w.ID
		}
		if order != "abc" {
			t.Errorf("listed %q", order)
		}
		close(goOn)
		d.Wait(t.Context())
	})
}

// Work is not detached while its call lasts: the server counts the call.
func TestWorkInTimeIsNotDetached(t *testing.T) {
	t.Parallel()
	var d Tracker
	l := d.NewLease("vol-1", func() {})
	defer l.Release()
	if _, err := RunDetached(t.Context(), l, "work", func() (int, error) {
		if all := d.List(); all != nil {
			t.Errorf("detached before its call has ended: %v", all)
		}
		return 0, nil
	}); err != nil {
		t.Error(err)
	}
	if all := d.List(); all != nil {
		t.Errorf("left %v", all)
	}
}

// The lock is free once Wait says so, also after a panic.
func TestDetachedWorkEndsWithItsLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d Tracker
		free, goOn := false, make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		l := d.NewLease("vol-1", func() { time.Sleep(time.Second); free = true }) //nolint:forbidigo // the clock of the bubble
		if _, err := RunDetached(ctx, l, "work", func() (int, error) { <-goOn; panic("oops") }); !volume.IsKind(err, volume.KindCanceled) {
			t.Errorf("%v", err)
		}
		if len(d.List()) != 1 {
			t.Error("the work is not detached")
		}
		close(goOn)
		if d.Wait(t.Context()); !free {
			t.Error("the lock is not free")
		}
	})
}

func TestNoDetachedKeepsNoAccount(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	detach(t, nil, "vol-1", "work", goOn)
	var none *Tracker
	if none.List() != nil || none.Wait(t.Context()) != nil {
		t.Error("work is listed")
	}
	close(goOn)
}
