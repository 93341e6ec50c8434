package filesystem

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	testingexec "k8s.io/utils/exec/testing"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// TestFormatStoppedWhileItClearsTheDevice also has a device that is in use, which passes.
func TestFormatStoppedWhileItClearsTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFormatTest(t)
		r.device.head[70000] = 7
		if err := writeMarker(r.marker, marker{TypeXFS, volume.GiB, time.Now()}); err != nil {
			t.Fatal(err)
		}
		for _, kind := range []volume.Kind{volume.KindCanceled, volume.KindDeadline} {
			ctx, cancel := context.WithCancel(t.Context())
			if kind == volume.KindDeadline {
				ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
			}
			req := FormatRequest{Device: slowDevice{r.device, func() {
				if kind == volume.KindCanceled {
					cancel()
				}
				<-ctx.Done()
			}}, Type: TypeXFS, Marker: r.marker}
			volumetest.WantKind(t, r.system.Format(ctx, req), kind, "clear the leftovers of an interrupted mkfs on /dev/loop0",
				"")
			cancel()
			if len(r.commands) != 0 || !r.hasMarker(t) {
				t.Errorf("ran %q, marker %t", r.commands, r.hasMarker(t))
			}
			r.device.head[70000] = 7
		}
		r.kernel.errors["writer"] = []error{unix.EBUSY}
		volumetest.WantKind(t, r.format(t.Context(), TypeXFS), volume.KindDeadline, "open /dev/loop0")
		if err := r.format(t.Context(), TypeXFS); err != nil {
			t.Error(err)
		}
	})
}

// slowDevice is a device that calls during at each write.
type slowDevice struct {
	*fakeDevice
	during func()
}

func (sd slowDevice) OpenWriter() (blockdev.Writer, error) {
	w, err := sd.fakeDevice.OpenWriter()
	return slowWriter{w, sd.during}, err
}

type slowWriter struct {
	blockdev.Writer
	during func()
}

func (sw slowWriter) WriteAt(p []byte, at int64) (int, error) {
	sw.during()
	return sw.Writer.WriteAt(p, at)
}

// TestFormatRefusesWhatBlkidRecognizes keeps the marker while the device is in use: blkid
// may see the mkfs of a plugin that has crashed.
func TestFormatRefusesWhatBlkidRecognizes(t *testing.T) {
	r := newFormatTest(t)
	r.blkidOutput = "DEVNAME=/dev/loop0\nTYPE=xfs\n"
	r.kernel.errors["writer"] = []error{unix.EBUSY}
	volumetest.WantKind(t, r.format(t.Context(), TypeXFS), volume.KindDeadline, "open /dev/loop0")
	if !r.hasMarker(t) {
		t.Error("the marker of a running mkfs was removed")
	}
	volumetest.WantKind(t, r.format(t.Context(), TypeXFS), volume.KindPrecondition, "blkid recognizes data")
	if r.hasMarker(t) {
		t.Error("the marker was not removed, although the data is not of this driver")
	}
}

// TestFormatOfABlankPartition has a blkid that succeeds and prints neither TYPE nor PTTYPE.
func TestFormatOfABlankPartition(t *testing.T) {
	r := newFormatTest(t)
	r.blkidErr = testingexec.FakeExitError{Status: 0}
	if err := r.format(t.Context(), TypeExt4); err != nil || len(r.commands) != 2 {
		t.Errorf("Format: %v, ran %q; want blkid and mkfs", err, r.commands)
	}
}
