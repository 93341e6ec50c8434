package operation

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestAwaitExclusiveStartsNoSecondCallWhileTheFirstHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var locks Locks
		calls, release := 0, make(chan struct{})
		hang := func() (int, error) { calls++; <-release; return calls, nil }
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := AwaitExclusive(ctx, &locks, "disk", hang); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a call that hangs: %v, want the context's error", err)
			}
			cancel()
		}
		synctest.Wait()
		if calls != 1 {
			t.Errorf("%d calls are running, want 1", calls)
		}
		answer := func() (string, error) { return "answer", nil }
		if got, err := AwaitExclusive(t.Context(), &locks, "other", answer); got != "answer" || err != nil {
			t.Errorf("another device: %q, %v; want the answer", got, err)
		}
		close(release)
		if got, err := AwaitExclusive(t.Context(), &locks, "disk", hang); got != 2 || err != nil {
			t.Errorf("after the first call has returned: %d, %v; want 2", got, err)
		}
	})
}
