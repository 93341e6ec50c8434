package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// awaitFilesystem waits until the filesystem has size bytes, less 1 MiB at most. It
// returns how long that took, and whether it happened within the timeout.
func awaitFilesystem(
	t *testing.T, v *csiclient.Volume, size int64, timeout time.Duration,
) (took time.Duration, hasGrown bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	for start := time.Now(); ; {
		_, fs := readSizes(t, v)
		if fs >= size-mib {
			return time.Since(start), true
		}
		if operation.Sleep(ctx, time.Millisecond) != nil {
			return time.Since(start), false
		}
	}
}

// The filesystem grows when its device does, without a call of NodeExpandVolume. A
// later call succeeds.
func TestDeviceChangeGrowsTheFilesystem(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs", "ext3", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := createAndUse(t, d, volumeName(t), gib, csiclient.MountCapability(fstype))
			dev := loopDeviceOf(t, v)
			w := csiclient.StartWriter(ctx, v.Target, 50<<20, time.Millisecond)
			for _, size := range []int64{2 * gib, 3 * gib} {
				growDevice(t, d, v, dev, size)
				took, hasGrown := awaitFilesystem(t, v, size, time.Minute)
				if !hasGrown {
					t.Fatalf("the device has %s, but after %s the filesystem does not", formatSize(size), took)
				}
				t.Logf("%s: %s from the device at %s to the filesystem read back",
					fstype, took.Round(100*time.Microsecond), formatSize(size))
				wantSize(t, v, size)
				must.Value(d.ExpandNode(ctx, v, size))(t)
			}
			stall := w.TakeLongestStall()
			t.Logf("longest stall %s; %s verified", stall, formatSize(verifyAndDelete(t, d, v, w, fstype)))
		})
	}
}

// The device grows while no node plugin runs. The next one grows the filesystem,
// although kubelet does not stage the volume again.
func TestDeviceChangeWhileThePluginIsDown(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := createAndUse(t, d, volumeName(t), gib, csiclient.MountCapability("ext4"))
	dev := loopDeviceOf(t, v)
	w := csiclient.StartWriter(ctx, v.Target, 20<<20, time.Millisecond)
	d.NodePlugin.Kill()
	growDevice(t, d, v, dev, 2*gib)
	must.Succeed(t, d.StartNode(ctx))
	if took, hasGrown := awaitFilesystem(t, v, 2*gib, time.Minute); !hasGrown {
		t.Fatalf("the filesystem has not grown within %s of the restart", took)
	}
	verifyAndDelete(t, d, v, w, "ext4")
}

// A device change grows neither a filesystem that is staged read-only nor, with the
// option off, any other. The growth of a second volume, whose device changed later,
// shows that the node plugin has seen the first change too.
func TestDeviceChangeGrowsOnlyWhereAllowed(t *testing.T) {
	t.Run("staged read-only", func(t *testing.T) {
		d, ctx := deploy(t), t.Context()
		v := createAndUse(t, d, volumeName(t), gib, csiclient.MountCapability("xfs")) // makes the filesystem
		must.Succeed(t, d.Release(ctx, v))
		v.Capability = csiclient.MountCapability("xfs", "noatime,ro")
		must.Succeed(t, d.Attach(ctx, v))
		must.Succeed(t, d.Use(ctx, v))
		other := createAndUse(t, d, volumeName(t)+"-2", gib, csiclient.MountCapability("xfs"))

		growDevice(t, d, v, loopDeviceOf(t, v), 2*gib)
		growDevice(t, d, other, loopDeviceOf(t, other), 2*gib)
		if took, hasGrown := awaitFilesystem(t, other, 2*gib, time.Minute); !hasGrown {
			t.Errorf("the other volume has not grown within %s of its device", took)
		}
		if _, fs := readSizes(t, v); fs > gib {
			t.Errorf("got %s for a filesystem that is staged read-only, want 1 GiB", formatSize(fs))
		}
		releaseAndDelete(t, d, v, other)
	})
	t.Run("switched off", func(t *testing.T) {
		d, ctx := deploy(t), t.Context()
		v := createAndUse(t, d, volumeName(t), gib, csiclient.MountCapability("xfs"))
		d.NodePlugin.Kill()
		d.NodeFlags = []string{"--grow-on-device-change=false"}
		must.Succeed(t, d.StartNode(ctx))
		growDevice(t, d, v, loopDeviceOf(t, v), 2*gib)
		if _, hasGrown := awaitFilesystem(t, v, 2*gib, time.Second); hasGrown {
			t.Error("the filesystem has grown although the option is off")
		}
		if conditions := must.Value(d.Health(ctx, v))(t); conditions["FilesystemSmallerThanVolume"] == "" {
			t.Errorf("got the conditions %v, want FilesystemSmallerThanVolume", conditions)
		}
		must.Value(d.ExpandNode(ctx, v, 2*gib))(t)
		wantSize(t, v, 2*gib)
		releaseAndDelete(t, d, v)
	})
}
