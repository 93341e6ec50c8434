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

// awaitDF waits until the pod sees a filesystem of about the size, and returns how long
// that took. It ends the test after the timeout.
func (d *disk) awaitDF(t *testing.T, size volume.Size, timeout time.Duration) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	for start := time.Now(); ; {
		got := d.df(t)
		if got > size-size/8 { // less the filesystem's own metadata
			return time.Since(start)
		}
		if operation.Sleep(ctx, 5*time.Millisecond) != nil {
			t.Fatalf("got a filesystem of %s %s after the device had %s, want about the same size",
				got, time.Since(start).Round(time.Millisecond), size)
		}
	}
}

// The filesystem grows when the hypervisor makes the disk larger, without a call of
// NodeExpandVolume. VirtioSCSISilent is not tested: there the kernel sees the new
// size only at the rescan of the call.
func TestDeviceChangeGrowsTheFilesystem(t *testing.T) {
	for _, bus := range []vm.Bus{vm.VirtioBlk, vm.VirtioSCSI} {
		fstype := filesystemOn(bus)
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
				t.Logf("%s on %s: %s from QEMU's resize to %s to the pod's filesystem",
					fstype, bus, took.Round(time.Millisecond), size)
				d.mustExpand(t, size, size)
				d.wantDF(t, size)
			}
			wrote := w.stop(t)
			d.unpublishAndUnstage(t)
			checkFilesystem(t, fstype, device, 3*gib)
			d.stageAndPublish(t)
			t.Logf("written %s, read back %s", wrote, w.verify(t, d.Target))
		})
	}
}
