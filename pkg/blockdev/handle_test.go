package blockdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

func TestHandleReadsAndWritesItsDevice(t *testing.T) {
	m := newMachineWithDisks(t)
	d := m.mustFind("8:0")
	if err := os.WriteFile(d.Path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := m.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	if h.Path() != d.Path || h.Number() != d.Number() || h.String() != d.String() {
		t.Errorf("the handle of %s names %s", d, h)
	}
	p := make([]byte, 4)
	if n, err := h.ReadAt(p, 3); n != 4 || err != nil || string(p) != "tent" {
		t.Errorf("read %q, %v", p[:n], err)
	}
	if size, err := h.Size(); err != nil || size != m.diskOfNode(d).size() {
		t.Errorf("size %s, %v", size, err)
	}
	if size, err := h.BlockSize(); err != nil || size != 512 {
		t.Errorf("block size %s, %v", size, err)
	}
	m.diskOfNode(d).readOnly = true
	if ro, err := h.IsReadOnly(); err != nil || !ro {
		t.Errorf("read-only %t, %v", ro, err)
	}
	w, err := h.OpenWriter()
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.WriteAt([]byte("C"), 0)
	if err := errors.Join(err, w.Sync(), w.Close()); err != nil {
		t.Error(err)
	}
	head := make([]byte, 16)
	if n, err := m.ReadStart(d, head); err != nil || string(head[:n]) != "Content" {
		t.Errorf("read %q, %v", head[:n], err)
	}
	if err := h.CheckPath(); err != nil {
		t.Errorf("the path of an open device: %v", err)
	}
	m.diskOfNode(d).number.Minor = 16 // the kernel gave the name to another disk
	wantPathError(t, h, "now leads to block device 8:16, not to the volume's device 8:0")
	if w, err := h.OpenWriter(); err == nil || w != nil || !strings.Contains(err.Error(), "8:16") {
		t.Errorf("OpenWriter of a node of another device: %v, want an error with 8:16", err)
	}
	delete(m.fake.nodes, d.Path)
	wantPathError(t, h, "leads to block device 8:0")
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}

// wantPathError fails the test unless CheckPath refuses the handle's path with the text.
func wantPathError(t *testing.T, h *Handle, text string) {
	t.Helper()
	err := h.CheckPath()
	if volume.KindOf(err) != volume.KindInternal || err == nil || !strings.Contains(err.Error(), h.Path()) ||
		!strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), "still attached") {
		t.Errorf("CheckPath() = %v, want an error of kind Internal with %q", err, text)
	}
}

// TestOpenContextClosesALateOpen opens a FIFO, which hangs until another process writes to it.
func TestOpenContextClosesALateOpen(t *testing.T) {
	m := newMachineWithDisks(t)
	d := m.mustFind("8:0")
	if h, err := m.OpenContext(t.Context(), d); err != nil || h.Close() != nil {
		t.Fatalf("open and close: %v", err)
	}
	if err := errors.Join(os.Remove(d.Path), unix.Mkfifo(d.Path, 0o600)); err != nil {
		t.Fatal(err)
	}
	openBriefly := func() {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		h, err := m.OpenContext(ctx, d)
		if h != nil || volume.KindOf(err) != volume.KindDeadline || !strings.Contains(err.Error(), "does not answer") {
			t.Errorf("an open that hangs: %v, want kind Deadline", err)
		}
	}
	openBriefly()
	// The open for reading returns once the FIFO is opened for writing. Writes fail with
	// EPIPE once the last reader has closed it.
	f, err := os.OpenFile(d.Path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	for errors.Is(err, unix.ENXIO) { // the reader has not begun its open yet, or its context ended before
		openBriefly()
		f, err = os.OpenFile(d.Path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // nothing of value
	waitCtx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for ; !errors.Is(err, unix.EPIPE); _, err = f.WriteString("x") {
		if operation.Sleep(waitCtx, time.Millisecond) != nil {
			t.Fatal("the late open was not closed within a minute")
		}
	}
}

// TestRealHandleKeepsItsNumber detaches the file of an open loop device: the kernel gives
// the device to no other file before Close.
func TestRealHandleKeepsItsNumber(t *testing.T) {
	d, file := attachLoop(t, 64*volume.MiB)
	if err := os.WriteFile(file, []byte("this very file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, (64 * volume.MiB).Bytes()); err != nil {
		t.Fatal(err)
	}
	h, err := New().Open(d)
	if err != nil {
		t.Fatal(err)
	}
	detachLoop(t, d)
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close() //nolint:errcheck // holds no data
	if n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE); err != nil || uint32(n) == d.Minor {
		t.Errorf("the kernel offers loop%d, which is open (%v)", n, err)
	}
	if err := unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_REMOVE, int(d.Minor)); !errors.Is(err, unix.EBUSY) {
		t.Errorf("removal of the open device: %v, want EBUSY", err)
	}
	other, err := os.Create(filepath.Join(t.TempDir(), "other"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close() //nolint:errcheck // nothing was written
	dev, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_FD, int(other.Fd()))
	if !errors.Is(err, unix.EBUSY) {
		t.Errorf("another file for the open device: %v, want EBUSY", err)
	}
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
	head := make([]byte, len("this very file"))
	if _, err := h.ReadAt(head, 0); err != nil || string(head) != "this very file" {
		t.Errorf("read %q, %v", head, err)
	}
	if size, err := h.Size(); err != nil || size != 64*volume.MiB {
		t.Errorf("size %s, %v", size, err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(fmt.Sprintf("/sys/block/%s/loop", d.Name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the last close the device still has its file: %v", err)
	}
}

func TestRealOpenWriterIsExclusive(t *testing.T) {
	d, _ := newLoopDevice(t, 64*volume.MiB)
	h, err := New().Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close() //nolint:errcheck // only read from
	if size, err := h.BlockSize(); err != nil || size != 512 {
		t.Errorf("block size %s, %v", size, err)
	}
	w, err := h.OpenWriter()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.OpenWriter(); volume.KindOf(err) != volume.KindDeadline || !errors.Is(err, unix.EBUSY) {
		t.Errorf("a second OpenWriter: %v, want kind Deadline", err)
	}
	_, err = w.WriteAt([]byte("written"), 512)
	if err := errors.Join(err, w.Sync(), w.Close()); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 7)
	if _, err := h.ReadAt(p, 512); err != nil || string(p) != "written" {
		t.Errorf("read %q, %v", p, err)
	}
}

// TestCallsEndInTimeOnADiskThatHangs opens a FIFO, which hangs: each kind of call uses one
// thread, however often it is made.
func TestCallsEndInTimeOnADiskThatHangs(t *testing.T) {
	m := newMachineWithDisks(t)
	d := m.mustFind("8:0")
	if err := errors.Join(os.Remove(d.Path), unix.Mkfifo(d.Path, 0o600)); err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	for name, call := range map[string]func(ctx context.Context) error{
		"OpenContext": func(ctx context.Context) error { _, err := m.OpenContext(ctx, d); return err },
		"AwaitSize":   func(ctx context.Context) error { _, err := m.AwaitSize(ctx, d, volume.GiB); return err },
		"Flush":       func(ctx context.Context) error { return m.Flush(ctx, d) },
	} {
		for _, kind := range []volume.Kind{volume.KindDeadline, volume.KindCanceled, volume.KindDeadline} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			if kind == volume.KindCanceled {
				ctx, cancel = context.WithCancel(t.Context())
				time.AfterFunc(20*time.Millisecond, cancel)
			}
			err := call(ctx)
			cancel()
			if volume.KindOf(err) != kind || !strings.Contains(err.Error(), "does not answer") {
				t.Errorf("%s: %v, want kind %s", name, err, kind)
			}
		}
	}
	if n := runtime.NumGoroutine() - before; n > 2 { // one open and one flush
		t.Errorf("%d goroutines wait for the disk", n)
	}
	f, err := os.OpenFile(d.Path, os.O_RDWR, 0) // releases them
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
}

// TestRealReadsComeFromTheDevice writes past the device's page cache, as a filesystem or
// another node does. The device stays open, so that the kernel does not drop the cache.
func TestRealReadsComeFromTheDevice(t *testing.T) {
	d, backing := newLoopDevice(t, 64*volume.MiB)
	h, err := New().Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close() //nolint:errcheck // only read from
	f, err := os.OpenFile(backing, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // synced below
	for _, at := range []int64{0, 1024, 5 << 20} {
		for _, want := range []string{"first", "later"} {
			got := make([]byte, len(want))
			if _, err := h.ReadAt(got, at); err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte(want), at); err != nil {
				t.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
			if _, err := h.ReadAt(got, at); err != nil || string(got) != want {
				t.Errorf("at %d: read %q, %v, want %q", at, got, err, want)
			}
		}
	}
}
