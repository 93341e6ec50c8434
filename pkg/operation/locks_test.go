package operation

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

func TestLockHasOneHolder(t *testing.T) {
	var l Locks
	var inside, maxInside atomic.Int32
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			unlock, err := l.Lock(t.Context(), "vol")
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			if n := inside.Add(1); n > maxInside.Load() {
				maxInside.Store(n)
			}
			inside.Add(-1)
		})
	}
	wg.Wait()
	if maxInside.Load() != 1 {
		t.Errorf("%d holders at once", maxInside.Load())
	}
	if len(l.locks) != 0 {
		t.Errorf("%d entries are left behind", len(l.locks))
	}
}

func TestLockEndsWithItsContext(t *testing.T) {
	var l Locks
	unlock, err := l.Lock(t.Context(), "vol")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = l.Lock(ctx, "vol")
	if !volume.IsKind(err, volume.KindInProgress) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a lock that is taken: %v", err)
	}
	if _, err := l.Lock(t.Context(), "other"); err != nil {
		t.Errorf("another volume is blocked: %v", err)
	}
	unlock()
	unlock() // a second call must not free the lock of another caller
	unlockAgain, err := l.Lock(t.Context(), "vol")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if _, err := l.Lock(ctx, "vol"); err == nil {
		t.Error("a stale unlock freed the lock of another holder")
	}
	unlockAgain()
	if _, err := l.Lock(ctx, "vol"); err == nil {
		t.Error("an ended context was given a lock")
	}
}

func TestLockWithSourceDoesNotDeadlock(t *testing.T) {
	var l Locks
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			a, b := "a", "b"
			if i%2 == 0 {
				a, b = b, a
			}
			unlock, _, err := l.LockWithSource(t.Context(), a, "", b, a)
			if err != nil {
				t.Error(err)
				return
			}
			unlock()
		})
	}
	wg.Wait()
	unlock, err := l.Lock(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, _, err := l.LockWithSource(ctx, "a", "b"); err == nil {
		t.Error("a lock that is taken was given")
	}
	unlock()
	if unlock, _, err = l.LockWithSource(t.Context(), "a", "b"); err != nil {
		t.Fatalf("a failed LockWithSource kept what it had taken: %v", err)
	}
	unlock()
}

func TestUnlockSourceReleasesTheSourceAlone(t *testing.T) {
	var l Locks
	shortContext := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	for _, source := range []string{"source", ""} {
		unlock, unlockSource, err := l.LockWithSource(t.Context(), source, "name")
		if err != nil {
			t.Fatal(err)
		}
		unlockSource()
		unlockSource()
		unlockAgain, err := l.Lock(t.Context(), "source")
		if err != nil {
			t.Fatalf("source %q is still locked: %v", source, err)
		}
		if _, err := l.Lock(shortContext(), "name"); err == nil {
			t.Error("the name was released with the source")
		}
		unlock()
		unlock()
		if _, err := l.Lock(shortContext(), "source"); err == nil {
			t.Error("unlock released the source for another holder")
		}
		unlockAgain()
		name, err := l.Lock(t.Context(), "name")
		if err != nil {
			t.Fatalf("the name is still locked: %v", err)
		}
		name()
	}
}

// The next holder got the same lock that was released before.
func TestRepeatedUnlockSourceDoesNotReleaseTheNextHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Locks
		unlock, unlockSource, err := l.LockWithSource(t.Context(), "source", "name")
		if err != nil {
			t.Fatal(err)
		}
		next := make(chan func(), 1)
		go func() {
			u, err := l.Lock(t.Context(), "source")
			if err != nil {
				t.Error(err)
			}
			next <- u
		}()
		synctest.Wait()
		unlockSource()
		unlockNext := <-next
		unlockSource()
		unlock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.Lock(ctx, "source"); err == nil {
			t.Error("the lock of the next holder was released")
		}
		unlockNext()
	})
}

func TestHasWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Locks
		if l.HasWaiters("vol") {
			t.Error("nobody has the lock")
		}
		unlock, err := l.Lock(t.Context(), "vol")
		if err != nil || l.HasWaiters("vol") {
			t.Errorf("%v; nobody waits", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, _ = l.Lock(ctx, "vol") }()
		synctest.Wait()
		if !l.HasWaiters("vol") || l.HasWaiters("other") {
			t.Error("the waiter is not seen")
		}
		cancel()
		synctest.Wait()
		if l.HasWaiters("vol") {
			t.Error("a waiter that gave up is seen")
		}
		unlock()
	})
}
