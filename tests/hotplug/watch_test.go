package hotplug

import (
	"context"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/vm"
)

// awaitDF waits until the pod sees a filesystem of about the size, and returns
// how long that took.
func (d *disk) awaitDF(t *testing.T, size volume.Size, limit time.Duration) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for start := time.Now(); ; {
		got := d.df(t)
		if got > size-size/8 { // less the filesystem's own metadata
			return time.Since(start)
		}
		if operation.Sleep(ctx, 5*time.Millisecond) != nil {
			t.Fatalf("the device has %s, and %s later the filesystem has %s", size, time.Since(start).Round(time.Millisecond), got)
		}
	}
}

// The hypervisor makes the disk larger, and the pod has the room: nobody calls
// NodeExpandVolume. A disk of which the hypervisor announces nothing waits for
// the call, whose rescan finds the new size.
func TestDeviceChangeGrowsTheFilesystem(t *testing.T) {
	for _, bus := range []vm.Bus{vm.VirtioBlk, vm.VirtioSCSI} {
		for _, fstype := range []string{"ext3", "ext4", "xfs"} {
			t.Run(string(bus)+"/"+fstype, func(t *testing.T) {
				t.Parallel()
				d := plugVolume(t, bus, csiclient.MountCapability(fstype))
				d.stageAndPublish(t)
				d.wantDF(t, gib)
				w := d.startWriter(t)
				device := d.findDevice(t)
				for _, size := range []volume.Size{2 * gib, 3 * gib} {
					d.grow(t, size)
					took := d.awaitDF(t, size, 30*time.Second)
					t.Logf("%s on %s: disk at %s in QEMU → the pod's filesystem: %s", fstype, bus, size, took.Round(time.Millisecond))
					if n, err := d.expand(t, size); err != nil || n != size { // it finds the work done
						t.Errorf("the call that follows: %s, %v", n, err)
					}
					d.wantDF(t, size)
				}
				wrote := w.stop(t)
				d.unstage(t)
				checkFilesystem(t, fstype, device, 3*gib)
				d.stageAndPublish(t)
				t.Logf("written %s, read back %s", wrote, w.verify(t, d.Target))
			})
		}
	}
}
