package road

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/co"
)

// Five growths under a writer for each filesystem: every size is read back,
// every byte verified, every filesystem checked.
func TestGrowthInUse(t *testing.T) {
	for _, fstype := range []string{"ext2", "ext3", "ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := get(d.Create(ctx, name(t), gib, co.Mount(fstype), nil))(t)
			must(t, d.Use(ctx, v))
			must(t, d.Use(ctx, v)) // repeated calls find it done
			w := co.StartWriter(ctx, v.Target, 200<<20, time.Millisecond)
			for _, size := range []int64{2 * gib, 3 * gib, 3*gib + 512<<20, 6 * gib, 12 * gib} {
				e := get(d.Expand(ctx, v, size))(t)
				if e.ControllerSize != size || e.NodeSize != size {
					t.Errorf("expanded to %s: controller says %s, node %s", short(size), short(e.ControllerSize), short(e.NodeSize))
				}
				wantGrown(t, v, size)
				total, _, err := d.Stats(ctx, v)
				must(t, err)
				if total < size*9/10 {
					t.Errorf("right after the growth to %s the stats say %s", short(size), short(total))
				}
				// A repeated call is a success that changes nothing.
				if again := get(d.Expand(ctx, v, size))(t); again.NodeSize != size {
					t.Errorf("the repeated call says %s", short(again.NodeSize))
				}
			}
			stall := w.Stall()
			n := finish(t, d, v, w, fstype)
			t.Logf("%s: 1 → 12 GiB in five growths; longest stall %s; %s verified", fstype, stall.Round(time.Millisecond/10), short(n))
		})
	}
}

func TestRawBlockGrowsInUse(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := get(d.Create(ctx, name(t), gib, co.Block(), nil))(t)
	must(t, d.Use(ctx, v))
	f := get(os.OpenFile(v.Target, os.O_RDWR, 0))(t)
	defer f.Close() //nolint:errcheck // closed below
	pattern := []byte("data at the end of the first gibibyte")
	get(f.WriteAt(pattern, gib-4096))(t)
	for _, size := range []int64{2 * gib, 5 * gib} {
		if e := get(d.Expand(ctx, v, size))(t); e.NodeSize != size {
			t.Errorf("node says %s", short(e.NodeSize))
		}
		// The descriptor that was open all the time sees the new end.
		if end := get(f.Seek(0, io.SeekEnd))(t); end != size {
			t.Errorf("the open device ends at %s, want %s", short(end), short(size))
		}
		get(f.WriteAt(pattern, size-4096))(t)
	}
	must(t, f.Sync())
	must(t, f.Close())
	total, _, err := d.Stats(ctx, v)
	if err != nil || total != 5*gib {
		t.Errorf("stats %s, %v", short(total), err)
	}
	must(t, d.Release(ctx, v))
	must(t, d.Use(ctx, v))
	f = get(os.Open(v.Target))(t)
	for _, end := range []int64{gib, 2 * gib, 5 * gib} {
		back := make([]byte, len(pattern))
		if _, err := f.ReadAt(back, end-4096); err != nil || string(back) != string(pattern) {
			t.Errorf("at %s: %q, %v", short(end), back, err)
		}
	}
	must(t, f.Close())
	must(t, d.Release(ctx, v))
	must(t, d.Delete(ctx, v))
}

// The controller has grown the volume, the node's kernel does not know yet:
// the very state in which the filesystem's tools say "nothing to do" and
// exit with 0. The node plugin rescans, and grows.
func TestStaleDeviceIsRescanned(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := get(d.Create(ctx, name(t), gib, co.Mount(fstype), nil))(t)
			must(t, d.Use(ctx, v))
			must(t, d.ExpandController(ctx, v, 3*gib))
			if device, fs := sizes(t, v); device != gib || fs > gib {
				t.Fatalf("the device has %s already: this is not the case to be tested", short(device))
			}
			patient, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			if n := get(d.ExpandNode(patient, v, 3*gib))(t); n != 3*gib {
				t.Errorf("node says %s", short(n))
			}
			wantGrown(t, v, 3*gib)
			must(t, d.Release(ctx, v))
			must(t, d.Delete(ctx, v))
		})
	}
}

// The node is asked to grow, but the volume never grew: no rescan can bring
// anything. Whatever the tools would say, the answer is an error with both
// sizes, within the caller's time, and nothing has changed.
func TestNoSuccessWhenARescanBringsNothing(t *testing.T) {
	for _, capability := range map[string]*csi.VolumeCapability{"ext4": co.Mount("ext4"), "xfs": co.Mount("xfs"), "block": co.Block()} {
		d, ctx := deploy(t), t.Context()
		v := get(d.Create(ctx, name(t), gib, capability, nil))(t)
		must(t, d.Use(ctx, v))
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := d.ExpandNode(short, v, 3*gib)
		left := time.Until(deadline(short))
		cancel()
		wantCode(t, err, codes.DeadlineExceeded, v.ID, "1 GiB", "3 GiB", "next step")
		if left <= 0 {
			t.Error("the answer came only when the caller had given up")
		}
		if capability.GetBlock() == nil {
			wantGrown(t, v, gib)
		}
		must(t, d.Release(ctx, v))
		must(t, d.Delete(ctx, v))
	}
}

func deadline(ctx context.Context) time.Time {
	at, _ := ctx.Deadline()
	return at
}

// A clone and a restored snapshot that are larger than their source hold a
// filesystem of the source's size: staging grows it.
func TestLargerCloneAndRestoreGrowAtStage(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := get(d.Create(ctx, name(t), gib, co.Mount(fstype), nil))(t)
			must(t, d.Use(ctx, v))
			w := co.StartWriter(ctx, v.Target, 8<<20, 0)
			must(t, w.Fill())
			must(t, d.Release(ctx, v))
			snap := get(d.Driver.Controller.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{SourceVolumeId: v.ID, Name: "snap-" + name(t)}))(t).GetSnapshot()
			for kind, src := range map[string]*csi.VolumeContentSource{
				"clone":   {Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: v.ID}}},
				"restore": {Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snap.GetSnapshotId()}}},
			} {
				c := get(d.Create(ctx, name(t)+"-"+kind, 3*gib, co.Mount(fstype), src))(t)
				must(t, d.Use(ctx, c))
				wantGrown(t, c, 3*gib)
				if _, err := w.Verify(c.Target); err != nil {
					t.Errorf("%s: %v", kind, err)
				}
				must(t, d.Release(ctx, c))
				must(t, d.Delete(ctx, c))
			}
			get(d.Driver.Controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snap.GetSnapshotId()}))(t)
			must(t, d.Delete(ctx, v))
		})
	}
}

// A volume that grew while nobody used it (offline expansion).
func TestOfflineExpansion(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := get(d.Create(ctx, name(t), gib, co.Mount("ext3"), nil))(t)
	must(t, d.Use(ctx, v))
	must(t, d.Release(ctx, v))
	must(t, d.ExpandController(ctx, v, 2*gib))
	must(t, d.Use(ctx, v))
	wantGrown(t, v, 2*gib)
	if n := get(d.ExpandNode(ctx, v, 2*gib))(t); n != 2*gib {
		t.Errorf("node says %s", short(n))
	}
	must(t, d.Release(ctx, v))
	must(t, d.Delete(ctx, v))
}

// The controller's side of a refusal: no success and nothing changed.
func TestControllerRefusals(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := get(d.Create(ctx, name(t), gib, co.Mount("ext4"), nil))(t)
	expand := func(required, limit int64) error {
		_, err := d.Driver.Controller.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: v.ID, CapacityRange: &csi.CapacityRange{RequiredBytes: required, LimitBytes: limit}})
		return err
	}
	wantCode(t, expand(gib+1, gib+2), codes.OutOfRange, "limit")
	wantCode(t, expand(1<<63-1, 0), codes.OutOfRange) // cannot be rounded
	wantCode(t, expand(0, 0), codes.InvalidArgument)
	must(t, expand(gib/2, 0)) // an older, smaller target is a success
	got := get(d.Driver.Controller.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: v.ID}))(t)
	if got.GetVolume().GetCapacityBytes() != gib {
		t.Errorf("the volume has %s", short(got.GetVolume().GetCapacityBytes()))
	}
	must(t, d.Delete(ctx, v))
	_, err := d.Driver.Controller.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: v.ID, CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * gib}})
	wantCode(t, err, codes.NotFound)
}

// Paths and devices that are not what they were: a clear error, and nothing
// is touched, least of all the filesystem that contains the path.
func TestLostMountsAndDevices(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := get(d.Create(ctx, name(t), gib, co.Mount("ext4"), nil))(t)
	must(t, d.Use(ctx, v))
	must(t, d.ExpandController(ctx, v, 2*gib))
	target := v.Target

	v.Target = filepath.Join(filepath.Dir(target), "elsewhere")
	must(t, os.Mkdir(v.Target, 0o700))
	_, err := d.ExpandNode(ctx, v, 2*gib)
	wantCode(t, err, codes.Internal, v.Target, "not a mount point")
	v.Target = filepath.Join(filepath.Dir(target), "missing")
	_, err = d.ExpandNode(ctx, v, 2*gib)
	wantCode(t, err, codes.Internal, v.Target)

	other := get(d.Create(ctx, name(t)+"-other", gib, co.Mount("ext4"), nil))(t)
	must(t, d.Use(ctx, other))
	v.Target = other.Target // another volume's mount under this volume's id
	_, err = d.ExpandNode(ctx, v, 2*gib)
	wantCode(t, err, codes.FailedPrecondition, v.ID)
	if device, _ := sizes(t, other); device != gib {
		t.Errorf("the other volume now has %s", short(device))
	}
	wantGrown(t, v, gib)

	v.Target = target
	get(d.ExpandNode(ctx, v, 2*gib))(t)
	wantGrown(t, v, 2*gib)
	for _, v := range []*co.Volume{v, other} {
		must(t, d.Release(ctx, v))
		must(t, d.Delete(ctx, v))
	}
}

// A filesystem that is mounted read-only cannot grow; the answer says so and
// how to go on. A read-only publication of a writable one can.
func TestReadOnly(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := get(d.Create(ctx, name(t), gib, co.Mount(fstype), nil))(t)
			must(t, d.Use(ctx, v))
			must(t, d.Release(ctx, v))
			v.Capability = co.Mount(fstype, "ro")
			must(t, d.Use(ctx, v))
			must(t, d.ExpandController(ctx, v, 2*gib))
			_, err := d.ExpandNode(ctx, v, 2*gib)
			wantCode(t, err, codes.FailedPrecondition, "read-only", "next step")
			must(t, d.Release(ctx, v))

			v.Capability = co.Mount(fstype)
			must(t, d.Attach(ctx, v))
			must(t, d.Stage(ctx, v))
			wantGrown(t, v, 2*gib)
			_, err = d.Driver.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{VolumeId: v.ID, StagingTargetPath: v.Staging, TargetPath: v.Target, VolumeCapability: v.Capability, Readonly: true})
			must(t, err)
			if err := os.WriteFile(filepath.Join(v.Target, "x"), nil, 0o600); err == nil {
				t.Error("a read-only publication can be written to")
			}
			must(t, d.ExpandController(ctx, v, 3*gib))
			get(d.ExpandNode(ctx, v, 3*gib))(t)
			wantGrown(t, v, 3*gib)
			must(t, d.Release(ctx, v))
			must(t, d.Delete(ctx, v))
		})
	}
}

// Equal expansions at once join: all succeed, with the one true size.
func TestConcurrentExpansionsJoin(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := get(d.Create(ctx, name(t), gib, co.Mount("xfs"), nil))(t)
	must(t, d.Use(ctx, v))
	results := make(chan error, 8)
	for range cap(results) {
		go func() {
			mine := *v
			e, err := d.Expand(ctx, &mine, 4*gib)
			if err == nil && (e.ControllerSize != 4*gib || e.NodeSize != 4*gib) {
				err = volume.Errorf(volume.KindInternal, "sizes %s and %s", short(e.ControllerSize), short(e.NodeSize))
			}
			results <- err
		}()
	}
	for range cap(results) {
		must(t, <-results)
	}
	wantGrown(t, v, 4*gib)
	must(t, d.Release(ctx, v))
	must(t, d.Delete(ctx, v))
}

// The device is detached behind the plugin's back.
func TestDeviceGone(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := get(d.Create(ctx, name(t), gib, co.Block(), nil))(t)
	must(t, d.Use(ctx, v))
	dev := connected(t, v)
	must(t, detachLoop(t, dev))
	_, err := d.ExpandNode(ctx, v, gib)
	wantCode(t, err, codes.Internal, v.ID, "next step")
	must(t, d.Release(ctx, v))
	must(t, d.Delete(ctx, v))
}

func detachLoop(t *testing.T, dev blockdev.Device) error {
	t.Helper()
	return command(t, "losetup", "-d", dev.Path)
}
