package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// wantExpand expands the volume and fails the test unless both plugins answer with
// size.
func wantExpand(t *testing.T, d *csiclient.Deployment, v *csiclient.Volume, size int64) {
	t.Helper()
	e := must.Value(d.Expand(t.Context(), v, size))(t)
	if e.ControllerSize != size || e.NodeSize != size {
		t.Errorf("expand to %s: got %s from the controller and %s from the node",
			formatSize(size), formatSize(e.ControllerSize), formatSize(e.NodeSize))
	}
}

// wantExpandNode calls NodeExpandVolume and fails the test unless the node answers with
// size.
func wantExpandNode(t *testing.T, d *csiclient.Deployment, v *csiclient.Volume, size int64) {
	t.Helper()
	if got := must.Value(d.ExpandNode(t.Context(), v, size))(t); got != size {
		t.Errorf("expand to %s: got %s from the node", formatSize(size), formatSize(got))
	}
}

// wantStats fails the test unless the filesystem's total is at least 90 % of the
// volume's size: the rest is the filesystem's own.
func wantStats(t *testing.T, d *csiclient.Deployment, v *csiclient.Volume, size int64) {
	t.Helper()
	total, _, err := d.Stats(t.Context(), v)
	if err != nil || total < size*9/10 {
		t.Errorf("got stats of %s, %v; want about %s", formatSize(total), err, formatSize(size))
	}
}

// growDevice expands the volume in the controller and makes its device show the new
// size, as a cloud does. The node plugin gets no call.
func growDevice(t *testing.T, d *csiclient.Deployment, v *csiclient.Volume, dev blockdev.Device, size int64) {
	t.Helper()
	must.Succeed(t, d.ExpandController(t.Context(), v, size))
	must.Value(blockdev.New().Rescan(t.Context(), dev))(t)
}

// Each filesystem grows five times under a writer. After each growth the sizes are read
// back; at the end every byte is verified and the filesystem checked.
func TestExpandInUse(t *testing.T) {
	for _, fstype := range []string{"ext2", "ext3", "ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := createAndUse(t, d, volumeName(t), gib, csiclient.MountCapability(fstype))
			must.Succeed(t, d.Use(ctx, v)) // a repeated call succeeds
			w := csiclient.StartWriter(ctx, v.Target, 200<<20, time.Millisecond)
			for _, size := range []int64{2 * gib, 3 * gib, 3*gib + 512<<20, 6 * gib, 12 * gib} {
				wantExpand(t, d, v, size)
				wantSize(t, v, size)
				wantStats(t, d, v, size)
				wantExpand(t, d, v, size) // a repeated call succeeds and changes nothing
			}
			stall := w.TakeLongestStall()
			n := verifyAndDelete(t, d, v, w, fstype)
			t.Logf("%s: 1 → 12 GiB in five growths; longest stall %s; %s verified",
				fstype, stall.Round(time.Millisecond/10), formatSize(n))
		})
	}
}

// A raw volume grows while its device is open: the open descriptor shows the new
// end, and the data written at each end survives.
func TestExpandRawBlockInUse(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := createAndUse(t, d, volumeName(t), gib, csiclient.BlockCapability())
	f := must.Value(os.OpenFile(v.Target, os.O_RDWR, 0))(t)
	defer f.Close() //nolint:errcheck // closed below
	pattern := []byte("data at the end of the device")
	must.Value(f.WriteAt(pattern, gib-4096))(t)
	for _, size := range []int64{2 * gib, 5 * gib} {
		wantExpand(t, d, v, size)
		if end := must.Value(f.Seek(0, io.SeekEnd))(t); end != size {
			t.Errorf("got the end of the open device at %s, want %s", formatSize(end), formatSize(size))
		}
		must.Value(f.WriteAt(pattern, size-4096))(t)
	}
	must.Succeed(t, f.Sync())
	must.Succeed(t, f.Close())
	total, _, err := d.Stats(ctx, v)
	if err != nil || total != 5*gib {
		t.Errorf("got stats of %s, %v; want %s", formatSize(total), err, formatSize(5*gib))
	}
	must.Succeed(t, d.Release(ctx, v))
	must.Succeed(t, d.Use(ctx, v))
	f = must.Value(os.Open(v.Target))(t)
	for _, end := range []int64{gib, 2 * gib, 5 * gib} {
		back := make([]byte, len(pattern))
		if _, err := f.ReadAt(back, end-4096); err != nil || string(back) != string(pattern) {
			t.Errorf("at %s: got %q, %v; want %q", formatSize(end), back, err, pattern)
		}
	}
	must.Succeed(t, f.Close())
	releaseAndDelete(t, d, v)
}

// The controller has grown the volume, but the node's kernel still shows the old
// size: in this state the filesystem's tools have nothing to do and exit with 0.
// The node plugin rescans the device and grows the filesystem.
func TestExpandRescansAStaleDevice(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := createAndUse(t, d, volumeName(t), gib, csiclient.MountCapability(fstype))
			must.Succeed(t, d.ExpandController(ctx, v, 3*gib))
			if device, fs := readSizes(t, v); device != gib || fs > gib {
				t.Fatalf("got a device of %s before the call, want the old size: the test has no stale device", formatSize(device))
			}
			limited, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			if n := must.Value(d.ExpandNode(limited, v, 3*gib))(t); n != 3*gib {
				t.Errorf("got %s from the node, want 3 GiB", formatSize(n))
			}
			wantSize(t, v, 3*gib)
			releaseAndDelete(t, d, v)
		})
	}
}

// The volume grows while no node has it (offline expansion): stage grows the
// filesystem.
func TestStageGrowsAfterOfflineExpansion(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := createAndUse(t, d, volumeName(t), gib, csiclient.MountCapability("ext3"))
	must.Succeed(t, d.Release(ctx, v))
	must.Succeed(t, d.ExpandController(ctx, v, 2*gib))
	must.Succeed(t, d.Use(ctx, v))
	wantSize(t, v, 2*gib)
	wantExpandNode(t, d, v, 2*gib)
	releaseAndDelete(t, d, v)
}

// Equal expansions that run at the same time all succeed with the same size.
func TestConcurrentExpansionsJoin(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := createAndUse(t, d, volumeName(t), gib, csiclient.MountCapability("xfs"))
	results := make(chan error, 8)
	for range cap(results) {
		go func() {
			own := *v
			e, err := d.Expand(ctx, &own, 4*gib)
			if err == nil && (e.ControllerSize != 4*gib || e.NodeSize != 4*gib) {
				err = fmt.Errorf("got %s from the controller and %s from the node, want 4 GiB",
					formatSize(e.ControllerSize), formatSize(e.NodeSize))
			}
			results <- err
		}()
	}
	for range cap(results) {
		must.Succeed(t, <-results)
	}
	wantSize(t, v, 4*gib)
	releaseAndDelete(t, d, v)
}
