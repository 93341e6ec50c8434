package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// growDevice makes the volume and its device larger as a cloud does, behind
// the back of the node plugin.
func growDevice(t *testing.T, d *csiclient.Deployment, v *csiclient.Volume, dev blockdev.Device, size int64) {
	t.Helper()
	must.Succeed(t, d.ExpandController(t.Context(), v, size))
	if _, err := blockdev.New().Rescan(t.Context(), dev); err != nil {
		t.Fatal(err)
	}
}

// awaitFilesystem waits until the filesystem has grown to about the size, and
// returns how long that took.
func awaitFilesystem(t *testing.T, v *csiclient.Volume, size int64, limit time.Duration) (took time.Duration, grown bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for start := time.Now(); ; {
		_, fs := readSizes(t, v)
		if fs >= size-int64(volume.MiB) {
			return time.Since(start), true
		}
		if operation.Sleep(ctx, time.Millisecond) != nil {
			return time.Since(start), false
		}
	}
}

// A volume whose device grows has the room at once: nobody calls
// NodeExpandVolume. The call that comes later finds the work done.
func TestDeviceChangeGrowsTheFilesystem(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs", "ext3", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.MountCapability(fstype), nil))(t)
			must.Succeed(t, d.Attach(ctx, v))
			must.Succeed(t, d.Use(ctx, v))
			dev := loopDeviceOf(t, v)
			w := csiclient.StartWriter(ctx, v.Target, 50<<20, time.Millisecond)
			for _, size := range []int64{2 * gib, 3 * gib} {
				growDevice(t, d, v, dev, size)
				took, grown := awaitFilesystem(t, v, size, 10*time.Second)
				if !grown {
					t.Fatalf("the device has %s, and after %s the filesystem has not", formatSize(size), took)
				}
				t.Logf("%s: device at %s → filesystem read back: %s", fstype, formatSize(size), took.Round(100*time.Microsecond))
				wantSize(t, v, size)
				must.Value(d.ExpandNode(ctx, v, size))(t)
			}
			t.Logf("longest stall of the writer: %s; %s verified", w.TakeLongestStall(), formatSize(verifyAndDelete(t, d, v, w, fstype)))
		})
	}
}

// The device grows while there is no plugin. The next one grows the
// filesystem, although kubelet does not stage the volume again.
func TestDeviceChangeWhileThePluginIsDown(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, d.Attach(ctx, v))
	must.Succeed(t, d.Use(ctx, v))
	dev := loopDeviceOf(t, v)
	w := csiclient.StartWriter(ctx, v.Target, 20<<20, time.Millisecond)
	d.NodePlugin.Kill()
	growDevice(t, d, v, dev, 2*gib)
	must.Succeed(t, d.StartNode(ctx))
	if took, grown := awaitFilesystem(t, v, 2*gib, 10*time.Second); !grown {
		t.Fatalf("%s after the restart the filesystem has not grown", took)
	}
	verifyAndDelete(t, d, v, w, "ext4")
}

// What is not to be grown is left alone: a volume that is staged read-only, and
// any volume when the option is off. The growth of a second volume, which was
// announced later, shows that the announcement was received.
func TestDeviceChangeGrowsOnlyWhereAllowed(t *testing.T) {
	t.Run("staged read-only", func(t *testing.T) {
		d, ctx := deploy(t), t.Context()
		v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.MountCapability("xfs"), nil))(t)
		must.Succeed(t, d.Attach(ctx, v))
		must.Succeed(t, d.Use(ctx, v)) // makes the filesystem
		must.Succeed(t, d.Release(ctx, v))
		v.Capability = csiclient.MountCapability("xfs", "noatime,ro")
		must.Succeed(t, d.Attach(ctx, v))
		must.Succeed(t, d.Use(ctx, v))
		other := must.Value(d.Create(ctx, volumeName(t)+"-2", gib, csiclient.MountCapability("xfs"), nil))(t)
		must.Succeed(t, d.Attach(ctx, other))
		must.Succeed(t, d.Use(ctx, other))

		growDevice(t, d, v, loopDeviceOf(t, v), 2*gib)
		growDevice(t, d, other, loopDeviceOf(t, other), 2*gib)
		if took, grown := awaitFilesystem(t, other, 2*gib, 10*time.Second); !grown {
			t.Errorf("%s after its device the other volume has not grown", took)
		}
		if _, fs := readSizes(t, v); fs > gib {
			t.Errorf("a filesystem that is staged read-only has grown to %s", formatSize(fs))
		}
		for _, v := range []*csiclient.Volume{v, other} {
			must.Succeed(t, d.Release(ctx, v))
			must.Succeed(t, d.Delete(ctx, v))
		}
	})
	t.Run("switched off", func(t *testing.T) {
		d, ctx := deploy(t), t.Context()
		v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.MountCapability("xfs"), nil))(t)
		must.Succeed(t, d.Attach(ctx, v))
		must.Succeed(t, d.Use(ctx, v))
		d.NodePlugin.Kill()
		d.NodeFlags = []string{"--grow-on-device-change=false"}
		must.Succeed(t, d.StartNode(ctx))
		growDevice(t, d, v, loopDeviceOf(t, v), 2*gib)
		if _, grown := awaitFilesystem(t, v, 2*gib, time.Second); grown {
			t.Error("the filesystem has grown all the same")
		}
		if h := must.Value(d.Health(ctx, v))(t); h["FilesystemSmallerThanVolume"] == "" {
			t.Errorf("conditions %v, want FilesystemSmallerThanVolume", h)
		}
		must.Value(d.ExpandNode(ctx, v, 2*gib))(t)
		wantSize(t, v, 2*gib)
		must.Succeed(t, d.Release(ctx, v))
		must.Succeed(t, d.Delete(ctx, v))
	})
}
