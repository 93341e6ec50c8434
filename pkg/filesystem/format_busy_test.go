package filesystem

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// TestFormatWipeStopped: a call that ends while leftovers are cleared is no
// fault of the device, and one that somebody else has in use passes.
func TestFormatWipeStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFormatRig(t)
		r.device.head[70000] = 7
		if err := writeMarker(r.marker, marker{TypeXFS, volume.GiB, time.Now()}); err != nil {
			t.Fatal(err)
		}
		for _, kind := range []volume.Kind{volume.KindCanceled, volume.KindDeadline} {
			ctx, cancel := context.WithCancel(t.Context())
			if kind == volume.KindDeadline {
				ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
			}
			req := FormatRequest{Device: slowWriter{r.device, func() {
				if kind == volume.KindCanceled {
					cancel()
				}
				<-ctx.Done()
			}}, Type: TypeXFS, Marker: r.marker}
			wantError(t, r.s.Format(ctx, req), kind, "clear the leftovers of an interrupted mkfs on /dev/loop0", "")
			cancel()
			if len(r.ran) != 0 || !r.marked(t) {
				t.Errorf("ran %q, marker %t", r.ran, r.marked(t))
			}
			r.device.head[70000] = 7
		}
		r.k.force["writer"] = []error{unix.EBUSY}
		wantError(t, r.format(t.Context(), TypeXFS), volume.KindDeadline, "open /dev/loop0", "")
		if err := r.format(t.Context(), TypeXFS); err != nil {
			t.Error(err)
		}
	})
}

// slowWriter is a device to which each write takes its time.
type slowWriter struct {
	*fakeDevice
	during func()
}

func (d slowWriter) OpenWriter() (blockdev.Writer, error) {
	w, err := d.fakeDevice.OpenWriter()
	return slowWrites{w, d.during}, err
}

type slowWrites struct {
	blockdev.Writer
	during func()
}

func (w slowWrites) WriteAt(p []byte, at int64) (int, error) {
	w.during()
	return w.Writer.WriteAt(p, at)
}

// TestFormatSeenByBlkid: what blkid sees may be the mkfs of a plugin that has
// crashed; its marker stays.
func TestFormatSeenByBlkid(t *testing.T) {
	r := newFormatRig(t)
	r.blkid = "DEVNAME=/dev/loop0\nTYPE=xfs\n"
	r.k.force["writer"] = []error{unix.EBUSY}
	wantError(t, r.format(t.Context(), TypeXFS), volume.KindDeadline, "open /dev/loop0", "")
	if !r.marked(t) {
		t.Error("the marker of a mkfs at work is gone")
	}
	wantError(t, r.format(t.Context(), TypeXFS), volume.KindPrecondition, "blkid recognizes data", "")
	if r.marked(t) {
		t.Error("the marker stays beside data that is not ours")
	}
}
