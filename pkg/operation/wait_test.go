package operation

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestSleepEndsWithItsContext(t *testing.T) {
	if err := Sleep(t.Context(), time.Millisecond); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Sleep(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
}

func TestAwaitCallEndsWithItsContext(t *testing.T) {
	failed := errors.New("failed")
	if v, err := AwaitCall(t.Context(), func() (int, error) { return 7, failed }); v != 7 || !errors.Is(err, failed) {
		t.Errorf("%d, %v", v, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	hang, ended := make(chan struct{}), make(chan struct{})
	_, err := AwaitCall(ctx, func() (int, error) { defer close(ended); <-hang; return 7, nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a call that hangs: %v", err)
	}
	close(hang)
	<-ended
}

func TestWithMarginTakesTheSmallerMargin(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ time, want time.Duration }{
		"the margin": {time.Hour, time.Hour - time.Minute},
		"1/parts":    {time.Minute, 45 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outer, cancel := context.WithTimeout(t.Context(), test.time)
			defer cancel()
			inner, cancel := WithMargin(outer, time.Minute, 4)
			defer cancel()
			end, _ := inner.Deadline()
			if left := time.Until(end); left > test.want || left < test.want-5*time.Second {
				t.Errorf("%s are left, want %s", left, test.want)
			}
		})
	}
	inner, cancel := WithMargin(t.Context(), time.Minute, 4)
	defer cancel()
	if _, limited := inner.Deadline(); limited {
		t.Error("a context without a deadline got one")
	}
}
