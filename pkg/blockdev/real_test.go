package blockdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// loopDevice attaches a file of this size to a loop device of the machine, for
// the time of the test.
func loopDevice(t *testing.T, size volume.Size) (d Device, file string) {
	t.Helper()
	d, file = attachLoop(t, size)
	t.Cleanup(func() { clearLoop(t, d) })
	return d, file
}

// attachLoop is loopDevice for a test that detaches the file itself.
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
			continue // another program has taken it meanwhile, and lets it go
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

// clearLoop tells a loop device to let its file go.
func clearLoop(t *testing.T, d Device) {
	t.Helper()
	dev, err := os.Open(d.Path)
	if err == nil {
		err = errors.Join(unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0), dev.Close())
	}
	if err != nil {
		t.Errorf("detach %s: %v", d, err)
	}
}

// The device of a grown file keeps its size until the kernel is told: the
// stale capacity that a node must never take for the volume's.
func TestRealLoopDevice(t *testing.T) {
	d, file := loopDevice(t, 64*volume.MiB)
	s := New()
	if d.Kind != Loop || d.Major != loopMajor {
		t.Errorf("got %+v", d)
	}
	if serial, err := s.Serial(d); err != nil || serial != file {
		t.Errorf("backing file %q, %v; want %q", serial, err, file)
	}
	if ro, err := s.ReadOnly(d); err != nil || ro {
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
		t.Fatalf("the device grew by itself: %s, %v", size, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if size, err := s.AwaitSize(ctx, d, 96*volume.MiB); err != nil || size != 96*volume.MiB {
		t.Fatalf("after a rescan: %s, %v", size, err)
	}
	// More than the file has never comes.
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	size, err := s.AwaitSize(short, d, 97*volume.MiB)
	if volume.KindOf(err) != volume.Deadline || size != 96*volume.MiB {
		t.Errorf("%s, %v", size, err)
	}
}

// TestRealCrypt needs device-mapper and cryptsetup, as a guest kernel has them.
func TestRealCrypt(t *testing.T) {
	if _, err := os.Stat("/dev/mapper/control"); err != nil {
		t.Skipf("needs device-mapper: %v", err)
	}
	if _, err := exec.LookPath("cryptsetup"); err != nil {
		t.Skipf("needs cryptsetup: %v", err)
	}
	for _, c := range []struct {
		name   string
		format []string
		open   []string
		keyed  bool
	}{
		{"LUKS2 keyring", []string{"--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}, nil, true},
		{"LUKS2 key in the table", []string{"--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}, []string{"--disable-keyring"}, false},
		{"LUKS1", []string{"--type", "luks1", "--pbkdf-force-iterations", "1000"}, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, file := loopDevice(t, 64*volume.MiB)
			name := fmt.Sprintf("blockdev-test-%d", os.Getpid())
			cryptsetup(t, append([]string{"luksFormat", "--batch-mode", "--key-file", "-", d.Path}, c.format...)...)
			cryptsetup(t, append([]string{"open", "--key-file", "-", d.Path, name}, c.open...)...)
			t.Cleanup(func() { cryptsetup(t, "close", name) })
			growCrypt(t, d, file, name, c.keyed)
		})
	}
}

const passphrase = "correct horse"

func cryptsetup(t *testing.T, args ...string) {
	t.Helper()
	// The test's own context has ended when cleanups run.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	if stderr, err := execute(ctx, []byte(passphrase), "cryptsetup", args...); err != nil {
		t.Fatalf("cryptsetup %s: %v: %s", args, err, stderr)
	}
}

// growCrypt grows the file, the loop device and the mapping on it.
func growCrypt(t *testing.T, disk Device, file, name string, keyed bool) {
	t.Helper()
	s := New()
	m, err := s.ByPath("/dev/mapper/" + name)
	if err != nil || m.Kind != Crypt {
		t.Fatalf("%+v, %v", m, err)
	}
	if layers, err := s.Stack(m); err != nil || len(layers) != 2 || layers[1] != disk {
		t.Fatalf("layers %v, %v; want it on %s", layers, err, disk)
	}
	if holders, err := s.Holders(disk); err != nil || len(holders) != 1 || holders[0].Name != m.Name {
		t.Errorf("holders %v, %v", holders, err)
	}
	overhead, err := s.CryptOverhead(m)
	if err != nil || overhead < volume.MiB || overhead > 16*volume.MiB {
		t.Fatalf("overhead %s, %v", overhead, err)
	}
	if size, err := s.Size(m); err != nil || size != 64*volume.MiB-overhead {
		t.Fatalf("size %s, %v", size, err)
	}
	if err := os.Truncate(file, (96 * volume.MiB).Bytes()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AwaitSize(t.Context(), disk, 96*volume.MiB); err != nil {
		t.Fatal(err)
	}
	if keyed {
		if _, err := s.ResizeCrypt(t.Context(), m, nil); volume.KindOf(err) != volume.Precondition {
			t.Errorf("without the key: %v", err)
		}
		_, err := s.ResizeCrypt(t.Context(), m, []byte("wrong"))
		if volume.KindOf(err) != volume.Precondition || !strings.Contains(err.Error(), "passphrase") {
			t.Errorf("with a wrong key: %v", err)
		}
	}
	want := 96*volume.MiB - overhead
	for range 2 { // the second time there is nothing to do
		if size, err := s.ResizeCrypt(t.Context(), m, []byte(passphrase)); err != nil || size != want {
			t.Fatalf("resized to %s, %v; want %s", size, err, want)
		}
	}
	if size, err := s.Size(m); err != nil || size != want {
		t.Errorf("size %s, %v; want %s", size, err, want)
	}
}
