package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// wantBlocked checks that a call waits for a lock until its time is up.
func wantBlocked(t *testing.T, what string, call func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := call(ctx); !volume.IsKind(err, volume.KindDeadline) {
		t.Errorf("%s: %v, want a wait for the lock", what, err)
	}
}

func mustLock(t *testing.T) func(unlock func(), err error) func() {
	t.Helper()
	return func(unlock func(), err error) func() {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return unlock
	}
}

// Between the look whether the volume is in use and its disconnection no pod
// may get it.
func TestUnstageWaitsForPublications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		if err := b.stage(t.Context()); err != nil {
			t.Fatal(err)
		}
		unlock := mustLock(t)(b.lockPublish(t.Context(), b.id))
		wantBlocked(t, "unstage", b.unstage)
		if len(b.mounts) != 1 || !d.connected {
			t.Errorf("mounts %+v, connected %t", b.mounts, d.connected)
		}
		unlock()
		if err := b.unstage(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// So it is when a stage that has failed takes its connection back.
func TestRetreatWaitsForPublications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		b.fail["format"] = volume.Errorf(volume.KindInternal, "mkfs is missing")
		unlock := mustLock(t)(b.lockPublish(t.Context(), b.id))
		wantKind(t, b.stage(t.Context()), volume.KindInternal, "mkfs is missing")
		if !d.connected {
			t.Error("disconnected while a publication is under way")
		}
		unlock()
	})
}

// And when a dead filesystem is unmounted, to be checked.
func TestStageWaitsForPublicationsBeforeItUnmounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		if err := b.stage(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.mountFailure = volume.Errorf(volume.KindPrecondition, "shut down")
		unlock := mustLock(t)(b.lockPublish(t.Context(), b.id))
		wantBlocked(t, "stage", b.stage)
		if len(b.mounts) != 1 {
			t.Errorf("unmounted while a publication is under way: %+v", b.mounts)
		}
		unlock()
		// An unmount that outlives its call keeps pods off as well.
		b.holdUnmount = make(chan struct{})
		wantBlocked(t, "stage", b.stage)
		wantBlocked(t, "publish", func(ctx context.Context) error { return b.publish(ctx, false) })
		close(b.holdUnmount)
		if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false)); err != nil || d.mountFailure != nil {
			t.Errorf("%v, dead %v", err, d.mountFailure)
		}
	})
}

// A format or a check must not go on under a pod that writes to the raw device.
func TestRawPublishWaitsForTheVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requireDeviceNodes(t)
		b := newTestNode(t, blockCapability())
		b.add(b.id, volume.GiB)
		if err := b.stage(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.holdFormat = make(chan struct{})
		raw := b.capability
		b.capability = mountCapability("ext4")
		wantBlocked(t, "stage", b.stage)
		b.capability = raw
		wantBlocked(t, "raw publish", func(ctx context.Context) error { return b.publish(ctx, false) })
		close(b.holdFormat)
		synctest.Wait()
		if err := b.publish(t.Context(), false); err != nil {
			t.Error(err)
		}
	})
}

// A pod with a filesystem starts while the volume grows.
func TestPublishDoesNotWaitForTheVolume(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	lock, err := b.lockVolume(t.Context(), b.id)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.unlock()
	if err := b.publish(t.Context(), false); err != nil {
		t.Error(err)
	}
}

// Both locks are taken in one order, whatever the id, and one that was taken
// in vain is given back.
func TestLockOrder(t *testing.T) {
	ids := []string{"a", "publish:a", "zzz", "PVC-1", "publish:publish:a"}
	var s Server
	for _, id := range ids {
		unlock := mustLock(t)(s.lockPublish(t.Context(), id))
		wantBlocked(t, "both locks", func(ctx context.Context) error {
			_, err := s.lockBoth(ctx, id)
			return err
		})
		lock, err := s.lockVolume(t.Context(), id)
		if err != nil {
			t.Fatalf("%s: the volume's lock was kept: %v", id, err)
		}
		unlock()
		lock.unlock()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	errs := make(chan error, len(ids)*100)
	for i := range 100 {
		for _, id := range ids {
			wg.Go(func() { errs <- s.lockSome(ctx, id, i) })
		}
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// lockSome takes and releases locks of a volume in one of the ways there are.
func (s *Server) lockSome(ctx context.Context, id string, way int) error {
	var unlock func()
	var err error
	switch way % 3 {
	case 0:
		unlock, err = s.lockBoth(ctx, id)
	case 1:
		unlock, err = s.lockPublish(ctx, id)
	default:
		var lock volumeLock
		if lock, err = s.lockVolume(ctx, id); err != nil {
			return err
		}
		defer lock.unlock()
		unlock, err = lock.lockPublish(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	unlock()
	return nil
}
