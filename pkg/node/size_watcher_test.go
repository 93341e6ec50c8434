package node

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

func TestDeviceChangeOfAReadOnlyStagingIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4", "ro"))
		d := b.add(b.id, volume.GiB)
		d.content = ext4Signature()
		if err := b.stage(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go b.GrowOnDeviceChange(ctx)
		synctest.Wait()
		b.growDevice(d, 2*volume.GiB, true)
		_ = operation.Sleep(ctx, 2*sizeReadInterval)
		synctest.Wait()
		if n := b.countCalls("grow"); n != 0 {
			t.Errorf("%d growths were tried", n)
		}
		if _, err := b.growToDevice(ctx, b.id); err != nil || b.countCalls("grow") != 0 {
			t.Errorf("grown, or error %v", err)
		}
		cancel()
		synctest.Wait()
	})
}

// An announcement during a growth is not lost, and an announcement of a known size repeats a growth
// that failed.
func TestDeviceChangeDuringAGrowthAndAfterARepair(t *testing.T) {
	withSizeWatcher(t, mountCapability("ext4"), func(t *testing.T, b *testNode, d *fakeDisk) {
		t.Helper()
		start := time.Now()
		hang := make(chan struct{})
		b.mu.Lock()
		b.holdGrow = hang
		b.mu.Unlock()
		b.growDevice(d, 2*volume.GiB, true)
		b.growDevice(d, 3*volume.GiB, true)
		b.mu.Lock()
		b.holdGrow = nil
		b.mu.Unlock()
		close(hang)
		synctest.Wait()
		if got := b.filesystemSize(d); got != 3*volume.GiB || time.Since(start) > 0 {
			t.Errorf("the filesystem has %s after %s, want 3 GiB at once", got, time.Since(start))
		}
		b.mu.Lock()
		b.fail["grow"] = volume.Errorf(volume.KindPrecondition, "run e2fsck")
		b.mu.Unlock()
		b.growDevice(d, 4*volume.GiB, true)
		b.mu.Lock()
		delete(b.fail, "grow")
		b.mu.Unlock()
		b.growDevice(d, 4*volume.GiB, true)
		if got := b.filesystemSize(d); got != 4*volume.GiB {
			t.Errorf("after the repair the filesystem has %s, want 4 GiB", got)
		}
	})
}

// A disk that does not answer does not keep GrowOnDeviceChange from returning.
func TestGrowOnDeviceChangeEndsWhileADiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		b.stageAndPublish(t, volume.GiB)
		hang := make(chan struct{})
		b.opts.Devices = hangingSizes{fakeDevices{b.machine}, hang}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); b.GrowOnDeviceChange(ctx) }()
		synctest.Wait()
		cancel()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Error("it does not end")
		}
		close(hang)
		<-ended
	})
}

// hangingSizes are devices whose sizes are not answered until hang is closed.
type hangingSizes struct {
	fakeDevices

	hang <-chan struct{}
}

func (h hangingSizes) Size(dev blockdev.Device) (volume.Size, error) {
	<-h.hang
	return h.fakeDevices.Size(dev)
}

// A volume whose staging mount is lost has nothing to grow; the next call for its pod reports that.
func TestDeviceChangeWithoutAMountGrowsNothing(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.stageAndPublish(t, volume.GiB)
	b.dropMount(b.staging)
	grown := b.countCalls("grow")
	if _, err := b.growToDevice(t.Context(), b.id); err != nil || b.countCalls("grow") != grown {
		t.Errorf("%v, %d growths", err, b.countCalls("grow")-grown)
	}
}

func TestDeviceChangeGrowsAMapping(t *testing.T) {
	for name, capability := range map[string]*csi.VolumeCapability{
		"mounted": mountCapability("ext4"), "raw": blockCapability(),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEncryptedTestNode(t, capability)
				d := b.add(b.id, volume.GiB)
				if err := b.stage(t.Context()); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { defer close(done); b.GrowOnDeviceChange(ctx) }()
				synctest.Wait()
				b.growDevice(d, 4*volume.GiB, true)
				b.mu.Lock()
				got := d.mappingSize
				b.mu.Unlock()
				if want := 4*volume.GiB - headerSize; got != want || name == "mounted" && b.filesystemSize(d) != want {
					t.Errorf("mapping %s, filesystem %s, want %s", got, b.filesystemSize(d), want)
				}
				cancel()
				<-done
				if d.openHandles+d.luks.openHandles != 0 {
					t.Errorf("%d and %d descriptors are still open", d.openHandles, d.luks.openHandles)
				}
			})
		})
	}
}

// What kept a growth from beginning may be gone the next time, whatever the kind of error.
func TestDeviceChangeIsRetriedUntilTheGrowthBegins(t *testing.T) {
	withSizeWatcher(t, mountCapability("ext4"), func(t *testing.T, b *testNode, d *fakeDisk) {
		t.Helper()
		b.mu.Lock()
		b.fail["locate"] = volume.Errorf(volume.KindPrecondition, "several disks show the volume's id")
		b.mu.Unlock()
		b.growDevice(d, 2*volume.GiB, true)
		_ = operation.Sleep(t.Context(), 10*sizeReadInterval)
		b.mu.Lock()
		delete(b.fail, "locate")
		b.mu.Unlock()
		_ = operation.Sleep(t.Context(), sizeReadInterval+time.Second)
		synctest.Wait()
		if got := b.filesystemSize(d); got != 2*volume.GiB {
			t.Errorf("the filesystem has %s, want 2 GiB once the fault is gone", got)
		}
	})
}

// withSizeWatcher runs test while growth on device change is on, and fails if it does
// not end with its context.
func withSizeWatcher(
	t *testing.T, capability *csi.VolumeCapability, test func(t *testing.T, b *testNode, d *fakeDisk),
) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, capability)
		d := b.add(b.id, volume.GiB)
		if err := b.stage(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); b.GrowOnDeviceChange(ctx) }()
		synctest.Wait()
		test(t, b, d)
		cancel()
		<-done
		if d.openHandles != 0 {
			t.Errorf("%d descriptors of the device are still open", d.openHandles)
		}
	})
}

func TestDeviceChangeGrowsTheFilesystemAtOnce(t *testing.T) {
	withSizeWatcher(t, mountCapability("ext4"), func(t *testing.T, b *testNode, d *fakeDisk) {
		t.Helper()
		start := time.Now()
		b.growDevice(d, 4*volume.GiB, true)
		if got := b.filesystemSize(d); got != 4*volume.GiB || time.Since(start) > 0 {
			t.Errorf("the filesystem has %s after %s, want 4 GiB at once", got, time.Since(start))
		}
		verified := b.countCalls("verify")
		if verified < 2 {
			t.Errorf("the device's identity was verified %d times, want once at stage and once at the growth", verified)
		}
	})
}

func TestDeviceChangeWithoutAnnouncementIsFoundAtTheInterval(t *testing.T) {
	withSizeWatcher(t, mountCapability("xfs"), func(t *testing.T, b *testNode, d *fakeDisk) {
		t.Helper()
		b.growDevice(d, 2*volume.GiB, false)
		grown := b.countCalls("grow")
		_ = operation.Sleep(t.Context(), sizeReadInterval+time.Second)
		synctest.Wait()
		if got := b.filesystemSize(d); got != 2*volume.GiB {
			t.Errorf("the filesystem has %s after %s, want 2 GiB", got, sizeReadInterval)
		}
		// Once is enough: sizes are read from then on, nothing else.
		_ = operation.Sleep(t.Context(), 10*sizeReadInterval)
		synctest.Wait()
		if n := b.countCalls("grow") - grown; n != 1 {
			t.Errorf("%d growths, want 1", n)
		}
	})
}

func TestAllSizesAreReadAfterLostEvents(t *testing.T) {
	withSizeWatcher(t, mountCapability("xfs"), func(t *testing.T, b *testNode, d *fakeDisk) {
		t.Helper()
		b.growDevice(d, 2*volume.GiB, false)
		b.events <- blockdev.SizeEvent{AnyDevice: true}
		synctest.Wait()
		if got := b.filesystemSize(d); got != 2*volume.GiB {
			t.Errorf("the filesystem has %s, want 2 GiB", got)
		}
	})
}

// A restarted plugin knows its volumes from their records: kubelet does not stage them again.
func TestDeviceChangeIsFoundAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.stageAndPublish(t, volume.GiB)
		b.growDevice(d, 2*volume.GiB, false)
		restarted, err := New(b.opts)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go restarted.GrowOnDeviceChange(ctx)
		synctest.Wait()
		if got := b.filesystemSize(d); got != 2*volume.GiB {
			t.Errorf("the filesystem has %s, want 2 GiB", got)
		}
	})
}

func TestDeviceChangeGrowsOnlyVolumesStagedForWriting(t *testing.T) {
	t.Run("staged read-only", func(t *testing.T) {
		withSizeWatcher(t, mountCapability("ext4"), func(t *testing.T, b *testNode, d *fakeDisk) {
			t.Helper()
			if err := b.unstage(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.capability = mountCapability("ext4", "noatime,ro")
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.growDevice(d, 2*volume.GiB, true)
			if got := b.filesystemSize(d); got != volume.GiB {
				t.Errorf("a filesystem that is staged read-only has grown to %s", got)
			}
		})
	})
	t.Run("unstaged", func(t *testing.T) {
		withSizeWatcher(t, mountCapability("ext4"), func(t *testing.T, b *testNode, d *fakeDisk) {
			t.Helper()
			if err := b.unstage(t.Context()); err != nil {
				t.Fatal(err)
			}
			grown := b.countCalls("grow")
			b.growDevice(d, 2*volume.GiB, true)
			_ = operation.Sleep(t.Context(), 2*sizeReadInterval)
			synctest.Wait()
			if n := b.countCalls("grow"); n != grown {
				t.Error("a volume that is not staged was grown")
			}
		})
	})
	t.Run("the device of another volume", func(t *testing.T) {
		withSizeWatcher(t, mountCapability("ext4"), func(t *testing.T, b *testNode, d *fakeDisk) {
			t.Helper()
			b.mu.Lock()
			d.serial = "vol-2" // another disk has the number by now
			b.mu.Unlock()
			grown := b.countCalls("grow")
			b.growDevice(d, 2*volume.GiB, true)
			if n := b.countCalls("grow"); n != grown {
				t.Error("the filesystem of another volume was grown")
			}
		})
	})
	t.Run("a raw volume", func(t *testing.T) {
		withSizeWatcher(t, blockCapability(), func(t *testing.T, b *testNode, d *fakeDisk) {
			t.Helper()
			b.growDevice(d, 2*volume.GiB, true)
			if n := b.countCalls("grow"); n != 0 {
				t.Error("a raw volume has no filesystem to grow")
			}
		})
	})
}

// A growth that failed for a reason that needs a person is not repeated; one that failed for a
// transient reason is.
func TestDeviceChangeRetriesTransientFailuresOnly(t *testing.T) {
	for name, c := range map[string]struct {
		failure error
		tries   int
	}{
		"needs a person": {volume.Errorf(volume.KindPrecondition, "the filesystem has recorded errors"), 1},
		"passes":         {volume.Errorf(volume.KindDeadline, "still being grown by another request"), 5},
	} {
		t.Run(name, func(t *testing.T) {
			withSizeWatcher(t, mountCapability("ext4"), func(t *testing.T, b *testNode, d *fakeDisk) {
				t.Helper()
				b.mu.Lock()
				b.fail["grow"] = c.failure
				b.mu.Unlock()
				before := b.countCalls("grow")
				b.growDevice(d, 2*volume.GiB, true)
				_ = operation.Sleep(t.Context(), 4*sizeReadInterval+time.Second)
				synctest.Wait()
				if n := b.countCalls("grow") - before; n != c.tries {
					t.Errorf("%d tries in %s, want %d", n, 4*sizeReadInterval, c.tries)
				}
				// Another change is another reason to try.
				b.mu.Lock()
				delete(b.fail, "grow")
				b.mu.Unlock()
				b.growDevice(d, 3*volume.GiB, true)
				if got := b.filesystemSize(d); got != 3*volume.GiB {
					t.Errorf("the filesystem has %s, want 3 GiB", got)
				}
			})
		})
	}
}

// A device that hangs delays no other volume.
func TestDeviceChangeIsNotDelayedByAnotherVolume(t *testing.T) {
	withSizeWatcher(t, mountCapability("ext4"), func(t *testing.T, b *testNode, d *fakeDisk) {
		t.Helper()
		other := *b
		other.id, other.staging = "vol-2", b.staging+"-2"
		second := b.add(other.id, volume.GiB)
		if err := other.stage(t.Context()); err != nil {
			t.Fatal(err)
		}
		hang := make(chan struct{})
		b.mu.Lock()
		b.holdGrow = hang
		b.mu.Unlock()
		b.growDevice(d, 2*volume.GiB, true)
		b.mu.Lock()
		b.holdGrow = nil
		b.mu.Unlock()
		b.growDevice(second, 2*volume.GiB, true)
		if got := b.filesystemSize(second); got != 2*volume.GiB {
			t.Errorf("the other volume's filesystem has %s, want 2 GiB", got)
		}
		close(hang)
		synctest.Wait()
		if got := b.filesystemSize(d); got != 2*volume.GiB {
			t.Errorf("the filesystem has %s, want 2 GiB", got)
		}
	})
}

func TestExpandAfterTheDeviceChangeFindsTheWorkDone(t *testing.T) {
	withSizeWatcher(t, mountCapability("ext4"), func(t *testing.T, b *testNode, d *fakeDisk) {
		t.Helper()
		if err := b.publish(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		b.growDevice(d, 2*volume.GiB, true)
		size, err := b.expand(t.Context(), 2*volume.GiB)
		if err != nil || size != 2*volume.GiB || d.content.Type != filesystem.TypeExt4 {
			t.Errorf("expanded to %s, %v", size, err)
		}
	})
}
