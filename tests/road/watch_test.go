package road

import (
	"context"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/co"
)

// growDevice makes the volume and its device larger as a cloud does, behind
// the back of the node plugin.
func growDevice(t *testing.T, d *co.Deployment, v *co.Volume, dev blockdev.Device, size int64) {
	t.Helper()
	must(t, d.ExpandController(t.Context(), v, size))
	if _, err := blockdev.New().Rescan(t.Context(), dev); err != nil {
		t.Fatal(err)
	}
}

// awaitFilesystem waits until the filesystem has grown to about the size, and
// returns how long that took.
func awaitFilesystem(t *testing.T, v *co.Volume, size int64, limit time.Duration) (took time.Duration, grown bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for start := time.Now(); ; {
		_, fs := sizes(t, v)
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
			v := get(d.Create(ctx, name(t), gib, co.Mount(fstype), nil))(t)
			must(t, d.Attach(ctx, v))
			must(t, d.Use(ctx, v))
			dev := connected(t, v)
			w := co.StartWriter(ctx, v.Target, 50<<20, time.Millisecond)
			for _, size := range []int64{2 * gib, 3 * gib} {
				growDevice(t, d, v, dev, size)
				took, grown := awaitFilesystem(t, v, size, 10*time.Second)
				if !grown {
					t.Fatalf("the device has %s, and after %s the filesystem has not", short(size), took)
				}
				t.Logf("%s: device at %s → filesystem read back: %s", fstype, short(size), took.Round(100*time.Microsecond))
				wantGrown(t, v, size)
				get(d.ExpandNode(ctx, v, size))(t)
			}
			t.Logf("longest stall of the writer: %s; %s verified", w.Stall(), short(finish(t, d, v, w, fstype)))
		})
	}
}

// The device grows while there is no plugin. The next one grows the
// filesystem, although kubelet does not stage the volume again.
func TestDeviceChangeWhileThePluginIsDead(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := get(d.Create(ctx, name(t), gib, co.Mount("ext4"), nil))(t)
	must(t, d.Attach(ctx, v))
	must(t, d.Use(ctx, v))
	dev := connected(t, v)
	w := co.StartWriter(ctx, v.Target, 20<<20, time.Millisecond)
	d.Node.Kill()
	growDevice(t, d, v, dev, 2*gib)
	must(t, d.StartNode(ctx))
	if took, grown := awaitFilesystem(t, v, 2*gib, 10*time.Second); !grown {
		t.Fatalf("%s after the restart the filesystem has not grown", took)
	}
	finish(t, d, v, w, "ext4")
}

// What is not to be grown is left alone: a volume that is staged read-only, and
// any volume when the option is off. The growth of a second volume, which was
// announced later, shows that the announcement was received.
func TestDeviceChangeThatMustNotGrow(t *testing.T) {
	t.Run("staged read-only", func(t *testing.T) {
		d, ctx := deploy(t), t.Context()
		v := get(d.Create(ctx, name(t), gib, co.Mount("xfs"), nil))(t)
		must(t, d.Attach(ctx, v))
		must(t, d.Use(ctx, v)) // makes the filesystem
		must(t, d.Release(ctx, v))
		v.Capability = co.Mount("xfs", "noatime,ro")
		must(t, d.Attach(ctx, v))
		must(t, d.Use(ctx, v))
		other := get(d.Create(ctx, name(t)+"-2", gib, co.Mount("xfs"), nil))(t)
		must(t, d.Attach(ctx, other))
		must(t, d.Use(ctx, other))

		growDevice(t, d, v, connected(t, v), 2*gib)
		growDevice(t, d, other, connected(t, other), 2*gib)
		if took, grown := awaitFilesystem(t, other, 2*gib, 10*time.Second); !grown {
			t.Errorf("%s after its device the other volume has not grown", took)
		}
		if _, fs := sizes(t, v); fs > gib {
			t.Errorf("a filesystem that is staged read-only has grown to %s", short(fs))
		}
		for _, v := range []*co.Volume{v, other} {
			must(t, d.Release(ctx, v))
			must(t, d.Delete(ctx, v))
		}
	})
	t.Run("switched off", func(t *testing.T) {
		d, ctx := deploy(t), t.Context()
		v := get(d.Create(ctx, name(t), gib, co.Mount("xfs"), nil))(t)
		must(t, d.Attach(ctx, v))
		must(t, d.Use(ctx, v))
		d.Node.Kill()
		d.NodeFlags = []string{"--grow-on-device-change=false"}
		must(t, d.StartNode(ctx))
		growDevice(t, d, v, connected(t, v), 2*gib)
		if _, grown := awaitFilesystem(t, v, 2*gib, time.Second); grown {
			t.Error("the filesystem has grown all the same")
		}
		if h := get(d.Health(ctx, v))(t); h["FilesystemSmallerThanVolume"] == "" {
			t.Errorf("conditions %v, want FilesystemSmallerThanVolume", h)
		}
		get(d.ExpandNode(ctx, v, 2*gib))(t)
		wantGrown(t, v, 2*gib)
		must(t, d.Release(ctx, v))
		must(t, d.Delete(ctx, v))
	})
}
