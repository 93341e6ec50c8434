package volume

import (
	"context"
	"errors"
	"testing"
)

func TestOutliveInTime(t *testing.T) {
	freed := 0
	l := NewLease(func() { freed++ })
	v, err := Outlive(t.Context(), l, "work", func() (int, error) { return 7, nil })
	if v != 7 || err != nil || freed != 0 {
		t.Errorf("%d, %v; freed %d times before the caller did", v, err, freed)
	}
	l.Release()
	l.Release()
	if freed != 1 {
		t.Errorf("freed %d times", freed)
	}
}

func TestOutliveKeepsTheLockForWorkThatGoesOn(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	freed, goOn := make(chan struct{}), make(chan struct{})
	l := NewLease(func() { close(freed) })
	cancel(context.DeadlineExceeded)
	_, err := Outlive(ctx, l, "the work", func() (int, error) { <-goOn; return 7, nil })
	if !IsKind(err, Deadline) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	l.Release()
	select {
	case <-freed:
		t.Error("the lock is free while the work goes on")
	default:
	}
	close(goOn)
	<-freed
}

func TestOutliveSurvivesAPanic(t *testing.T) {
	_, err := Outlive(t.Context(), NewLease(nil), "the work", func() (int, error) { panic("oops") })
	if !IsKind(err, Internal) {
		t.Errorf("%v", err)
	}
}
