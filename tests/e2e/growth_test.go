package e2e

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
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// Five growths under a writer for each filesystem: every size is read back,
// every byte verified, every filesystem checked.
func TestExpandInUse(t *testing.T) {
	for _, fstype := range []string{"ext2", "ext3", "ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.MountCapability(fstype), nil))(t)
			must.Succeed(t, d.Use(ctx, v))
			must.Succeed(t, d.Use(ctx, v)) // repeated calls find it done
			w := csiclient.StartWriter(ctx, v.Target, 200<<20, time.Millisecond)
			for _, size := range []int64{2 * gib, 3 * gib, 3*gib + 512<<20, 6 * gib, 12 * gib} {
				e := must.Value(d.Expand(ctx, v, size))(t)
				if e.ControllerSize != size || e.NodeSize != size {
					t.Errorf("expanded to %s: controller says %s, node %s", formatSize(size), formatSize(e.ControllerSize), formatSize(e.NodeSize))
				}
				wantSize(t, v, size)
				total, _, err := d.Stats(ctx, v)
				must.Succeed(t, err)
				if total < size*9/10 {
					t.Errorf("right after the growth to %s the stats say %s", formatSize(size), formatSize(total))
				}
				// A repeated call is a success that changes nothing.
				if again := must.Value(d.Expand(ctx, v, size))(t); again.NodeSize != size {
					t.Errorf("the repeated call says %s", formatSize(again.NodeSize))
				}
			}
			stall := w.TakeLongestStall()
			n := verifyAndDelete(t, d, v, w, fstype)
			t.Logf("%s: 1 → 12 GiB in five growths; longest stall %s; %s verified", fstype, stall.Round(time.Millisecond/10), formatSize(n))
		})
	}
}

func TestExpandRawBlockInUse(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.BlockCapability(), nil))(t)
	must.Succeed(t, d.Use(ctx, v))
	f := must.Value(os.OpenFile(v.Target, os.O_RDWR, 0))(t)
	defer f.Close() //nolint:errcheck // closed below
	pattern := []byte("data at the end of the first gibibyte")
	must.Value(f.WriteAt(pattern, gib-4096))(t)
	for _, size := range []int64{2 * gib, 5 * gib} {
		if e := must.Value(d.Expand(ctx, v, size))(t); e.NodeSize != size {
			t.Errorf("node says %s", formatSize(e.NodeSize))
		}
		// The descriptor that was open all the time sees the new end.
		if end := must.Value(f.Seek(0, io.SeekEnd))(t); end != size {
			t.Errorf("the open device ends at %s, want %s", formatSize(end), formatSize(size))
		}
		must.Value(f.WriteAt(pattern, size-4096))(t)
	}
	must.Succeed(t, f.Sync())
	must.Succeed(t, f.Close())
	total, _, err := d.Stats(ctx, v)
	if err != nil || total != 5*gib {
		t.Errorf("stats %s, %v", formatSize(total), err)
	}
	must.Succeed(t, d.Release(ctx, v))
	must.Succeed(t, d.Use(ctx, v))
	f = must.Value(os.Open(v.Target))(t)
	for _, end := range []int64{gib, 2 * gib, 5 * gib} {
		back := make([]byte, len(pattern))
		if _, err := f.ReadAt(back, end-4096); err != nil || string(back) != string(pattern) {
			t.Errorf("at %s: %q, %v", formatSize(end), back, err)
		}
	}
	must.Succeed(t, f.Close())
	must.Succeed(t, d.Release(ctx, v))
	must.Succeed(t, d.Delete(ctx, v))
}

// The controller has grown the volume, the node's kernel does not know yet:
// the very state in which the filesystem's tools say "nothing to do" and
// exit with 0. The node plugin rescans, and grows.
func TestExpandRescansAStaleDevice(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.MountCapability(fstype), nil))(t)
			must.Succeed(t, d.Use(ctx, v))
			must.Succeed(t, d.ExpandController(ctx, v, 3*gib))
			if device, fs := readSizes(t, v); device != gib || fs > gib {
				t.Fatalf("the device has %s already: this is not the case to be tested", formatSize(device))
			}
			patient, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			if n := must.Value(d.ExpandNode(patient, v, 3*gib))(t); n != 3*gib {
				t.Errorf("node says %s", formatSize(n))
			}
			wantSize(t, v, 3*gib)
			must.Succeed(t, d.Release(ctx, v))
			must.Succeed(t, d.Delete(ctx, v))
		})
	}
}

// The node is asked to grow, but the volume never grew: no rescan can bring
// anything. Whatever the tools would say, the answer is an error with both
// sizes, within the caller's time, and nothing has changed.
func TestExpandFailsWhenTheDeviceDoesNotGrow(t *testing.T) {
	for _, capability := range map[string]*csi.VolumeCapability{"ext4": csiclient.MountCapability("ext4"), "xfs": csiclient.MountCapability("xfs"), "block": csiclient.BlockCapability()} {
		d, ctx := deploy(t), t.Context()
		v := must.Value(d.Create(ctx, volumeName(t), gib, capability, nil))(t)
		must.Succeed(t, d.Use(ctx, v))
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := d.ExpandNode(short, v, 3*gib)
		left := time.Until(deadline(short))
		cancel()
		must.FailWith(t, err, codes.DeadlineExceeded, v.ID, "1 GiB", "3 GiB", "next step")
		if left <= 0 {
			t.Error("the answer came only when the caller had given up")
		}
		if capability.GetBlock() == nil {
			wantSize(t, v, gib)
		}
		must.Succeed(t, d.Release(ctx, v))
		must.Succeed(t, d.Delete(ctx, v))
	}
}

func deadline(ctx context.Context) time.Time {
	at, _ := ctx.Deadline()
	return at
}

// A clone and a restored snapshot that are larger than their source hold a
// filesystem of the source's size: staging grows it.
func TestStageGrowsLargerCopies(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.MountCapability(fstype), nil))(t)
			must.Succeed(t, d.Use(ctx, v))
			w := csiclient.StartWriter(ctx, v.Target, 8<<20, 0)
			must.Succeed(t, w.WaitUntilFull())
			must.Succeed(t, d.Release(ctx, v))
			snap := must.Value(d.Controller.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{SourceVolumeId: v.ID, Name: "snap-" + volumeName(t)}))(t).GetSnapshot()
			for kind, src := range map[string]*csi.VolumeContentSource{
				"clone":   {Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: v.ID}}},
				"restore": {Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snap.GetSnapshotId()}}},
			} {
				c := must.Value(d.Create(ctx, volumeName(t)+"-"+kind, 3*gib, csiclient.MountCapability(fstype), src))(t)
				must.Succeed(t, d.Use(ctx, c))
				wantSize(t, c, 3*gib)
				if _, err := w.Verify(c.Target); err != nil {
					t.Errorf("%s: %v", kind, err)
				}
				must.Succeed(t, d.Release(ctx, c))
				must.Succeed(t, d.Delete(ctx, c))
			}
			must.Value(d.Controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snap.GetSnapshotId()}))(t)
			must.Succeed(t, d.Delete(ctx, v))
		})
	}
}

// A volume that grew while nobody used it (offline expansion).
func TestStageGrowsAfterOfflineExpansion(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.MountCapability("ext3"), nil))(t)
	must.Succeed(t, d.Use(ctx, v))
	must.Succeed(t, d.Release(ctx, v))
	must.Succeed(t, d.ExpandController(ctx, v, 2*gib))
	must.Succeed(t, d.Use(ctx, v))
	wantSize(t, v, 2*gib)
	if n := must.Value(d.ExpandNode(ctx, v, 2*gib))(t); n != 2*gib {
		t.Errorf("node says %s", formatSize(n))
	}
	must.Succeed(t, d.Release(ctx, v))
	must.Succeed(t, d.Delete(ctx, v))
}

// The controller's side of a refusal: no success and nothing changed.
func TestControllerExpandRefusesImpossibleSizes(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.MountCapability("ext4"), nil))(t)
	expand := func(required, limit int64) error {
		_, err := d.Controller.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: v.ID, CapacityRange: &csi.CapacityRange{RequiredBytes: required, LimitBytes: limit}})
		return err
	}
	must.FailWith(t, expand(gib+1, gib+2), codes.OutOfRange, "limit")
	must.FailWith(t, expand(1<<63-1, 0), codes.OutOfRange) // cannot be rounded
	must.FailWith(t, expand(0, 0), codes.InvalidArgument)
	must.Succeed(t, expand(gib/2, 0)) // an older, smaller target is a success
	got := must.Value(d.Controller.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: v.ID}))(t)
	if got.GetVolume().GetCapacityBytes() != gib {
		t.Errorf("the volume has %s", formatSize(got.GetVolume().GetCapacityBytes()))
	}
	must.Succeed(t, d.Delete(ctx, v))
	_, err := d.Controller.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: v.ID, CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * gib}})
	must.FailWith(t, err, codes.NotFound)
}

// Paths and devices that are not what they were: a clear error, and nothing
// is touched, least of all the filesystem that contains the path.
func TestExpandFailsAtPathsThatAreNotTheVolumes(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, d.Use(ctx, v))
	must.Succeed(t, d.ExpandController(ctx, v, 2*gib))
	target := v.Target

	v.Target = filepath.Join(filepath.Dir(target), "elsewhere")
	must.Succeed(t, os.Mkdir(v.Target, 0o700))
	_, err := d.ExpandNode(ctx, v, 2*gib)
	must.FailWith(t, err, codes.Internal, v.Target, "not a mount point")
	v.Target = filepath.Join(filepath.Dir(target), "missing")
	_, err = d.ExpandNode(ctx, v, 2*gib)
	must.FailWith(t, err, codes.Internal, v.Target)

	other := must.Value(d.Create(ctx, volumeName(t)+"-other", gib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, d.Use(ctx, other))
	v.Target = other.Target // another volume's mount under this volume's id
	_, err = d.ExpandNode(ctx, v, 2*gib)
	must.FailWith(t, err, codes.FailedPrecondition, v.ID)
	if device, _ := readSizes(t, other); device != gib {
		t.Errorf("the other volume now has %s", formatSize(device))
	}
	wantSize(t, v, gib)

	v.Target = target
	must.Value(d.ExpandNode(ctx, v, 2*gib))(t)
	wantSize(t, v, 2*gib)
	for _, v := range []*csiclient.Volume{v, other} {
		must.Succeed(t, d.Release(ctx, v))
		must.Succeed(t, d.Delete(ctx, v))
	}
}

// A filesystem that is mounted read-only cannot grow; the answer says so and
// how to go on. A read-only publication of a writable one can.
func TestExpandRefusesReadOnlyMounts(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.MountCapability(fstype), nil))(t)
			must.Succeed(t, d.Use(ctx, v))
			must.Succeed(t, d.Release(ctx, v))
			v.Capability = csiclient.MountCapability(fstype, "ro")
			must.Succeed(t, d.Use(ctx, v))
			must.Succeed(t, d.ExpandController(ctx, v, 2*gib))
			_, err := d.ExpandNode(ctx, v, 2*gib)
			must.FailWith(t, err, codes.FailedPrecondition, "read-only", "next step")
			must.Succeed(t, d.Release(ctx, v))

			v.Capability = csiclient.MountCapability(fstype)
			must.Succeed(t, d.Attach(ctx, v))
			must.Succeed(t, d.Stage(ctx, v))
			wantSize(t, v, 2*gib)
			_, err = d.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{VolumeId: v.ID, StagingTargetPath: v.Staging, TargetPath: v.Target, VolumeCapability: v.Capability, Readonly: true})
			must.Succeed(t, err)
			if err := os.WriteFile(filepath.Join(v.Target, "x"), nil, 0o600); err == nil {
				t.Error("a read-only publication can be written to")
			}
			must.Succeed(t, d.ExpandController(ctx, v, 3*gib))
			must.Value(d.ExpandNode(ctx, v, 3*gib))(t)
			wantSize(t, v, 3*gib)
			must.Succeed(t, d.Release(ctx, v))
			must.Succeed(t, d.Delete(ctx, v))
		})
	}
}

// Equal expansions at once join: all succeed, with the one true size.
func TestConcurrentExpansionsJoin(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.MountCapability("xfs"), nil))(t)
	must.Succeed(t, d.Use(ctx, v))
	results := make(chan error, 8)
	for range cap(results) {
		go func() {
			mine := *v
			e, err := d.Expand(ctx, &mine, 4*gib)
			if err == nil && (e.ControllerSize != 4*gib || e.NodeSize != 4*gib) {
				err = volume.Errorf(volume.KindInternal, "sizes %s and %s", formatSize(e.ControllerSize), formatSize(e.NodeSize))
			}
			results <- err
		}()
	}
	for range cap(results) {
		must.Succeed(t, <-results)
	}
	wantSize(t, v, 4*gib)
	must.Succeed(t, d.Release(ctx, v))
	must.Succeed(t, d.Delete(ctx, v))
}

// The device is detached behind the plugin's back.
func TestExpandFailsWhenTheDeviceIsGone(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.BlockCapability(), nil))(t)
	must.Succeed(t, d.Use(ctx, v))
	dev := loopDeviceOf(t, v)
	must.Succeed(t, detachLoop(t, dev))
	_, err := d.ExpandNode(ctx, v, gib)
	must.FailWith(t, err, codes.Internal, v.ID, "next step")
	must.Succeed(t, d.Release(ctx, v))
	must.Succeed(t, d.Delete(ctx, v))
}

func detachLoop(t *testing.T, dev blockdev.Device) error {
	t.Helper()
	return runCommand(t, "losetup", "-d", dev.Path)
}
