package operation

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

func TestRunDetachedReturnsTheResultOfWorkThatEndsInTime(t *testing.T) {
	freed := 0
	l := NewLease(func() { freed++ })
	v, err := RunDetached(t.Context(), l, "work", func() (int, error) { return 7, nil })
	if v != 7 || err != nil || freed != 0 {
		t.Errorf("%d, %v; freed %d times before the caller did", v, err, freed)
	}
	l.Release()
	l.Release()
	if freed != 1 {
		t.Errorf("freed %d times", freed)
	}
}

func TestLeaseReleasesItsLocksInReverseOrder(t *testing.T) {
	order := ""
	l := new(Lease)
	for _, name := range []string{"a", "b", "c"} {
		l.Add(func() { order += name })
	}
	l.Release()
	l.Release()
	if order != "cba" {
		t.Errorf("released %q", order)
	}
}

func TestRunDetachedKeepsTheLockWhileTheWorkContinues(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	freed, proceed := make(chan struct{}), make(chan struct{})
	l := NewLease(func() { close(freed) })
	cancel(context.DeadlineExceeded)
	_, err := RunDetached(ctx, l, "the work", func() (int, error) { <-proceed; return 7, nil })
	if !volume.IsKind(err, volume.KindDeadline) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	l.Release()
	select {
	case <-freed:
		t.Error("the lock is free while the work goes on")
	default:
	}
	close(proceed)
	<-freed
}

// A panic on another goroutine would end the process. RunDetached panics in the call, where
// the server recovers.
func TestRunDetachedPanicsWithThePanicOfTheWork(t *testing.T) {
	defer func() {
		if p, ok := recover().(string); !ok || !strings.Contains(p, "oops") || !strings.Contains(p, "run_detached_test.go") {
			t.Errorf("recovered %q", p)
		}
	}()
	_, err := RunDetached(t.Context(), NewLease(nil), "the work", func() (int, error) { panic("oops") })
	t.Errorf("no panic, but %v", err)
}

func TestPanicOfDetachedWorkDoesNotEndTheProcess(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	freed, proceed := make(chan struct{}), make(chan struct{})
	_, err := RunDetached(ctx, NewLease(func() { close(freed) }), "the work",
		func() (int, error) { <-proceed; panic("oops") })
	if !volume.IsKind(err, volume.KindCanceled) {
		t.Errorf("%v", err)
	}
	close(proceed)
	<-freed
}
