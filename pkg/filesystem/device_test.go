package filesystem

import (
	"context"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestNothingRunsWhenThePathLeadsElsewhere(t *testing.T) {
	for name, move := range map[string]func(k *fakeKernel){
		"another disk": func(k *fakeKernel) { k.devices[testDevice] = k.addDevice("/dev/loop9", 9, volume.GiB) },
		"none":         func(k *fakeKernel) { delete(k.devices, testDevice) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newFormatTest(t)
			move(r.kernel)
			volumetest.WantKind(t, r.format(t.Context(), TypeExt4), volume.KindInternal, "/dev/loop0", "still attached")
			volumetest.WantKind(t, r.system.Check(t.Context(), r.device, TypeExt4), volume.KindInternal, "/dev/loop0",
				"still attached")
			volumetest.WantKind(t, r.system.Mount(t.Context(), MountRequest{Device: r.device, Target: "/t", Type: TypeExt4}),
				volume.KindInternal, "/dev/loop0", "still attached")
			if slices.ContainsFunc(r.commands, func(c string) bool { return c[:5] != "blkid" }) || len(r.kernel.calls) != 0 {
				t.Errorf("ran %q, called %q", r.commands, r.kernel.calls)
			}
			if r.hasMarker(t) {
				t.Error("the marker was not removed, although mkfs wrote nothing")
			}
		})
	}
}

func TestFormatChecksThePathDirectlyBeforeMkfs(t *testing.T) {
	r := newFormatTest(t)
	r.duringBlkid = func() { r.kernel.devices[testDevice] = r.kernel.addDevice("/dev/loop9", 9, volume.GiB) }
	volumetest.WantKind(t, r.format(t.Context(), TypeExt4), volume.KindInternal, "leads to block device 7:9, not to 7:0",
		"still attached")
	if len(r.commands) != 1 {
		t.Errorf("ran %q", r.commands)
	}
}

// TestReadsOfADeviceThatHangsEndWithTheContext also counts the threads that hang: one in
// all.
func TestReadsOfADeviceThatHangsEndWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel(t)
		release := make(chan struct{})
		dev := &hangingDevice{
			fakeDevice: k.addDevice(testDevice, 0, volume.GiB), release: release,
			reads: make(chan struct{}, 100),
		}
		s := k.system()
		for name, call := range map[string]func(ctx context.Context) error{
			"Probe":  func(ctx context.Context) error { _, err := s.Probe(ctx, dev); return err },
			"Format": func(ctx context.Context) error { return s.Format(ctx, FormatRequest{Device: dev, Type: TypeXFS}) },
		} {
			for _, kind := range []volume.Kind{volume.KindDeadline, volume.KindCanceled} {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				if kind == volume.KindCanceled {
					cancel()
					ctx, cancel = context.WithCancel(t.Context())
					go func() {
						_ = operation.Sleep(t.Context(), 10*time.Millisecond)
						cancel()
					}()
				}
				volumetest.WantKind(t, call(ctx), kind, "device /dev/loop0 does not answer", "still attached")
				cancel()
				if n := len(dev.reads); n != 1 {
					t.Errorf("%s: %d reads are running, want 1", name, n)
				}
			}
		}
		close(release)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if sig, err := s.Probe(ctx, dev); err != nil || sig.State != StateBlank {
			t.Errorf("after the device answers: %+v, %v; want blank", sig, err)
		}
	})
}

// hangingDevice does not answer a read before release is closed.
type hangingDevice struct {
	*fakeDevice
	release chan struct{}
	reads   chan struct{} // gets one value per read
}

func (hd *hangingDevice) ReadAt(p []byte, at int64) (int, error) {
	select {
	case <-hd.release:
	default:
		hd.reads <- struct{}{}
		<-hd.release
	}
	return hd.fakeDevice.ReadAt(p, at)
}

var _ io.ReaderAt = (*hangingDevice)(nil)

func TestMountsOfEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, s, _ := newFakeFilesystem(t, TypeBtrfs, volume.GiB, volume.GiB)
		release := make(chan struct{})
		defer close(release)
		s.kernel = hangingNodeKernel{k, release}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := s.MountsOf(ctx, k.device().Number())
		volumetest.WantKind(t, err, volume.KindDeadline, "the search for the mounts of device 7:0 did not end in time")
		volumetest.WantKind(t, s.Check(ctx, k.device(), TypeExt4), volume.KindDeadline,
			"the search for the mounts of device 7:0 did not end in time")
		k, s, _ = newFakeFilesystem(t, TypeBtrfs, volume.GiB, volume.GiB)
		k.errors["mounts"] = []error{unix.ENOMEM}
		_, err = s.MountsOf(t.Context(), k.device().Number())
		volumetest.WantKind(t, err, volume.KindInternal, "mount table")
	})
}

// hangingNodeKernel does not return the number of a device node before release is closed.
type hangingNodeKernel struct {
	kernel
	release chan struct{}
}

func (hn hangingNodeKernel) deviceNumber(path string) (blockdev.DeviceNumber, error) {
	<-hn.release
	return hn.kernel.deviceNumber(path)
}
