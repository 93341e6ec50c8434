package volume

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestPause(t *testing.T) {
	if err := Pause(t.Context(), time.Millisecond); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Pause(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
}

func TestBounded(t *testing.T) {
	failed := errors.New("failed")
	if v, err := Bounded(t.Context(), func() (int, error) { return 7, failed }); v != 7 || !errors.Is(err, failed) {
		t.Errorf("%d, %v", v, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	hang, ended := make(chan struct{}), make(chan struct{})
	_, err := Bounded(ctx, func() (int, error) { defer close(ended); <-hang; return 7, nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a call that hangs: %v", err)
	}
	close(hang)
	<-ended
}
