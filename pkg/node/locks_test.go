package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// wantBlocked fails the test unless call waits for a lock until its deadline.
func wantBlocked(t *testing.T, what string, call func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := call(ctx); !volume.IsKind(err, volume.KindDeadline) {
		t.Errorf("%s: %v, want a wait for the lock", what, err)
	}
}

// mustLock takes a lock with one of the functions of Server.
func mustLock(t *testing.T, lock func(context.Context, string) (*operation.Lease, error), id string) *operation.Lease {
	t.Helper()
	lease, err := lock(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

// No pod may get the volume between the check that it is unused and its disconnection.
func TestUnstageWaitsForPublications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		if err := b.stage(t.Context()); err != nil {
			t.Fatal(err)
		}
		publish := mustLock(t, b.lockPublish, b.id)
		wantBlocked(t, "unstage", b.unstage)
		if len(b.mounts) != 1 || !d.connected {
			t.Errorf("mounts %+v, connected %t", b.mounts, d.connected)
		}
		publish.Release()
		if err := b.unstage(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// No pod may get the volume while a failed stage disconnects it.
func TestRollbackWaitsForPublications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		b.fail["format"] = volume.Errorf(volume.KindInternal, "mkfs is missing")
		publish := mustLock(t, b.lockPublish, b.id)
		volumetest.WantKind(t, b.stage(t.Context()), volume.KindInternal, "mkfs is missing")
		if !d.connected {
			t.Error("disconnected while a publication is running")
		}
		publish.Release()
	})
}

// No pod may get a failed filesystem while a stage unmounts it.
func TestStageWaitsForPublicationsBeforeItUnmounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		if err := b.stage(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.mountFailure = volume.Errorf(volume.KindPrecondition, "shut down")
		publish := mustLock(t, b.lockPublish, b.id)
		wantBlocked(t, "stage", b.stage)
		if len(b.mounts) != 1 {
			t.Errorf("unmounted while a publication is running: %+v", b.mounts)
		}
		publish.Release()
		// An unmount that continues after its call keeps pods off too.
		b.holdUnmount = make(chan struct{})
		wantBlocked(t, "stage", b.stage)
		wantBlocked(t, "publish", func(ctx context.Context) error { return b.publish(ctx, false) })
		close(b.holdUnmount)
		if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false)); err != nil || d.mountFailure != nil {
			t.Errorf("error %v, failure of the mount %v", err, d.mountFailure)
		}
	})
}

// A format or a check must not run under a pod that writes to the raw device.
func TestRawPublishWaitsForTheVolumeLock(t *testing.T) {
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
func TestPublishDoesNotWaitForTheVolumeLock(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer mustLock(t, b.lockVolume, b.id).Release()
	if err := b.publish(t.Context(), false); err != nil {
		t.Error(err)
	}
}

// The locks of every id are taken in one order, and a lock is released if the next one is not
// available.
func TestLocksAreReleasedWhenOneIsNotAvailable(t *testing.T) {
	ids := []string{"a", "publish:a", "zzz", "PVC-1", "publish:publish:a"}
	var s Server
	for _, id := range ids {
		publish := mustLock(t, s.lockPublish, id)
		wantBlocked(t, "both locks", func(ctx context.Context) error {
			_, err := s.lockVolumeAndPublish(ctx, id)
			return err
		})
		lease, err := s.lockVolume(t.Context(), id)
		if err != nil {
			t.Fatalf("%s: the volume's lock was kept: %v", id, err)
		}
		publish.Release()
		lease.Release()
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
	var lease *operation.Lease
	var err error
	switch way % 3 {
	case 0:
		lease, err = s.lockVolumeAndPublish(ctx, id)
	case 1:
		lease, err = s.lockPublish(ctx, id)
	default:
		volumeLease, volumeErr := s.lockVolume(ctx, id)
		if volumeErr != nil {
			return volumeErr
		}
		defer volumeLease.Release()
		lease, err = s.lockPublish(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	lease.Release()
	return nil
}

// A call that waits for both locks holds neither while the volume's lock is taken: two calls that
// took the locks in different orders would wait for each other for ever.
func TestBothLocksAreTakenVolumeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Server
		volumeLease := mustLock(t, s.lockVolume, "a")
		got := make(chan *operation.Lease, 1)
		go func() {
			lease, _ := s.lockVolumeAndPublish(t.Context(), "a") // nil: the test has failed
			got <- lease
		}()
		synctest.Wait()
		publish, err := s.lockPublish(contextWithTimeout(t), "a")
		if err != nil {
			t.Fatalf("a call that waits for the volume's lock holds the publish lock: %v", err)
		}
		volumeLease.Release()
		synctest.Wait()
		wantBlocked(t, "the volume's lock", func(ctx context.Context) error {
			lease, err := s.lockVolume(ctx, "a")
			if err == nil {
				lease.Release()
			}
			return err
		})
		publish.Release()
		(<-got).Release()
	})
}
