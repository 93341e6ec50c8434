package blockdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// newLoopDevice attaches a file of this size to a loop device until the test ends.
func newLoopDevice(t *testing.T, size volume.Size) (d Device, file string) {
	t.Helper()
	d, file = attachLoop(t, size)
	t.Cleanup(func() { detachLoop(t, d) })
	return d, file
}

// attachLoop is newLoopDevice for a test that detaches the file itself.
func attachLoop(t *testing.T, size volume.Size) (d Device, file string) {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs root and loop devices: %v", err)
	}
	defer control.Close() //nolint:errcheck // holds no data
	file = filepath.Join(t.TempDir(), "data")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	if err := f.Truncate(size.Bytes()); err != nil {
		t.Fatal(err)
	}
	for range 64 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Skipf("needs loop devices: %v", err)
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		dev, err := os.OpenFile(path, os.O_RDWR, 0)
		if errors.Is(err, unix.ENXIO) {
			continue // another program took it in between and is detaching it
		}
		if err != nil {
			t.Skipf("needs loop devices: %v", err)
		}
		err = unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_FD, int(f.Fd()))
		if err := errors.Join(err, dev.Close()); err == nil {
			d, err := New().ByPath(path)
			if err != nil {
				t.Fatal(err)
			}
			return d, file
		}
	}
	t.Fatal("no free loop device")
	return d, file
}

// detachLoop detaches the file of a loop device.
func detachLoop(t *testing.T, d Device) {
	t.Helper()
	dev, err := os.Open(d.Path)
	if err == nil {
		err = errors.Join(unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0), dev.Close())
	}
	if err != nil {
		t.Errorf("detach %s: %v", d, err)
	}
}

// TestRealAwaitSizeRescansALoopDevice grows the backing file: the loop device keeps its
// old size until a rescan.
func TestRealAwaitSizeRescansALoopDevice(t *testing.T) {
	d, file := newLoopDevice(t, 64*volume.MiB)
	s := New()
	if d.Kind != KindLoop || d.Major != loopMajor {
		t.Errorf("got %+v", d)
	}
	if serial, err := s.Serial(d); err != nil || serial != file {
		t.Errorf("backing file %q, %v; want %q", serial, err, file)
	}
	if ro, err := s.IsReadOnly(d); err != nil || ro {
		t.Errorf("read-only %t, %v", ro, err)
	}
	if layers, err := s.Stack(d); err != nil || len(layers) != 1 {
		t.Errorf("layers %v, %v", layers, err)
	}
	if holders, err := s.Holders(d); err != nil || len(holders) != 0 {
		t.Errorf("holders %v, %v", holders, err)
	}
	if err := os.Truncate(file, (96 * volume.MiB).Bytes()); err != nil {
		t.Fatal(err)
	}
	if size, err := s.Size(d); err != nil || size != 64*volume.MiB {
		t.Fatalf("before the rescan: %s, %v; want 64 MiB", size, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if size, err := s.AwaitSize(ctx, d, 96*volume.MiB); err != nil || size != 96*volume.MiB {
		t.Fatalf("after the rescan: %s, %v; want 96 MiB", size, err)
	}
	// The device never gets larger than its file.
	synctest.Test(t, func(t *testing.T) { // whose clock does not move during a system call
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		size, err := s.AwaitSize(ctx, d, 97*volume.MiB)
		if volume.KindOf(err) != volume.KindDeadline || size != 96*volume.MiB {
			t.Errorf("more than the file: %s, %v; want 96 MiB and kind Deadline", size, err)
		}
	})
}

func TestRealOpenFileChecksTheNumber(t *testing.T) {
	d, _ := newLoopDevice(t, 64*volume.MiB)
	s := New()
	f, err := s.OpenFile(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read from
	number, err := linuxKernel{}.Fstat(f)
	if err != nil || number != d.Number() {
		t.Errorf("got %s, %v; want %s", number, err, d)
	}
	other := d
	other.Minor++
	if _, err := s.OpenFile(t.Context(), other); volume.KindOf(err) != volume.KindInternal || err == nil {
		t.Errorf("OpenFile of another number: %v, want kind Internal", err)
	}
}
