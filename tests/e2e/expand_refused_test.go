package e2e

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// NodeExpandVolume is called although the volume has not grown. It fails within the
// caller's time and names both sizes, whatever the filesystem's tools report, and
// nothing changes.
func TestExpandFailsWhenTheDeviceDoesNotGrow(t *testing.T) {
	for _, capability := range []*csi.VolumeCapability{
		csiclient.MountCapability("ext4"), csiclient.MountCapability("xfs"), csiclient.BlockCapability(),
	} {
		d, ctx := deploy(t), t.Context()
		v := createAndUse(t, d, volumeName(t), gib, capability)
		var err error
		answeredInTime := false
		// A call of 2 s leaves the node a margin of 400 ms, for which a busy machine may stop it.
		for _, timeout := range []time.Duration{2 * time.Second, 10 * time.Second} {
			limited, cancel := context.WithTimeout(ctx, timeout)
			_, err = d.ExpandNode(limited, v, 3*gib)
			answeredInTime = limited.Err() == nil
			cancel()
			if answeredInTime {
				break
			}
		}
		must.FailWith(t, err, codes.DeadlineExceeded, v.ID, "1 GiB", "3 GiB", "next step")
		if !answeredInTime {
			t.Error("the node answered only after the caller's deadline")
		}
		if capability.GetBlock() == nil {
			wantSize(t, v, gib)
		}
		releaseAndDelete(t, d, v)
	}
}

// ControllerExpandVolume refuses sizes that it cannot give, and changes nothing.
func TestControllerExpandRefusesImpossibleSizes(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.MountCapability("ext4"), nil))(t)
	expand := func(required, limit int64) error {
		_, err := d.Controller.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
			VolumeId: v.ID, CapacityRange: &csi.CapacityRange{RequiredBytes: required, LimitBytes: limit},
		})
		return err
	}
	must.FailWith(t, expand(gib+1, gib+2), codes.OutOfRange, "limit")
	must.FailWith(t, expand(1<<63-1, 0), codes.OutOfRange) // cannot be rounded up
	must.FailWith(t, expand(0, 0), codes.InvalidArgument)
	must.Succeed(t, expand(gib/2, 0)) // a target below the present size
	got := must.Value(d.Controller.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: v.ID}))(t)
	if size := got.GetVolume().GetCapacityBytes(); size != gib {
		t.Errorf("got a volume of %s, want 1 GiB", formatSize(size))
	}
	must.Succeed(t, d.Delete(ctx, v))
	must.FailWith(t, expand(2*gib, 0), codes.NotFound)
}

// NodeExpandVolume fails for a plain directory, a missing path and another volume's
// mount. It touches nothing, least of all the filesystem that contains the path.
func TestExpandFailsAtPathsThatAreNotTheVolumes(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := createAndUse(t, d, volumeName(t), gib, csiclient.MountCapability("ext4"))
	must.Succeed(t, d.ExpandController(ctx, v, 2*gib))
	target := v.Target

	v.Target = filepath.Join(filepath.Dir(target), "plain")
	must.Succeed(t, os.Mkdir(v.Target, 0o700))
	_, err := d.ExpandNode(ctx, v, 2*gib)
	must.FailWith(t, err, codes.Internal, v.Target, "not a mount point")
	v.Target = filepath.Join(filepath.Dir(target), "missing")
	_, err = d.ExpandNode(ctx, v, 2*gib)
	must.FailWith(t, err, codes.Internal, v.Target)

	other := createAndUse(t, d, volumeName(t)+"-other", gib, csiclient.MountCapability("ext4"))
	v.Target = other.Target
	_, err = d.ExpandNode(ctx, v, 2*gib)
	must.FailWith(t, err, codes.FailedPrecondition, v.ID)
	if device, _ := readSizes(t, other); device != gib {
		t.Errorf("got %s for the device of the other volume, want 1 GiB", formatSize(device))
	}
	wantSize(t, v, gib)

	v.Target = target
	must.Value(d.ExpandNode(ctx, v, 2*gib))(t)
	wantSize(t, v, 2*gib)
	releaseAndDelete(t, d, v, other)
}

// A filesystem that is staged read-only cannot grow, and the error names the next step.
// One that is staged writable and published read-only grows.
func TestExpandRefusesReadOnlyMounts(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := createAndUse(t, d, volumeName(t), gib, csiclient.MountCapability(fstype))
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
			must.Value(d.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
				VolumeId: v.ID, StagingTargetPath: v.Staging, TargetPath: v.Target,
				VolumeCapability: v.Capability, Readonly: true,
			}))(t)
			if err := os.WriteFile(filepath.Join(v.Target, "x"), nil, 0o600); err == nil {
				t.Error("a write to a read-only publication succeeded")
			}
			must.Succeed(t, d.ExpandController(ctx, v, 3*gib))
			must.Value(d.ExpandNode(ctx, v, 3*gib))(t)
			wantSize(t, v, 3*gib)
			releaseAndDelete(t, d, v)
		})
	}
}

// The device is detached without a call to the plugin.
func TestExpandFailsWhenTheDeviceIsGone(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := createAndUse(t, d, volumeName(t), gib, csiclient.BlockCapability())
	must.Succeed(t, runCommand(t, "losetup", "-d", loopDeviceOf(t, v).Path))
	_, err := d.ExpandNode(ctx, v, gib)
	must.FailWith(t, err, codes.Internal, v.ID, "next step")
	releaseAndDelete(t, d, v)
}
