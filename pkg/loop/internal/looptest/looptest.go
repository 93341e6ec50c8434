// Package looptest prepares loop devices and filesystems for the tests of both halves of
// the loop backend.
package looptest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/loop/internal/losetup"
	"github.com/growvol/growvol/pkg/volume"
)

// NeedDevices skips the test where it cannot create loop devices.
func NeedDevices(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs root and loop devices: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// Run runs a program for at most a minute. It fails the test if the program fails.
func Run(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, args, err, out)
	}
}

// Bind gives the file a loop device. release takes the file away again; it runs at the
// latest when the test ends.
func Bind(t *testing.T, path string) (d losetup.Device, release func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	d, err = losetup.New().Bind(f, filepath.Base(path), false)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() {
		dev, err := os.Open(d.Path)
		if err == nil {
			err = errors.Join(losetup.Clear(dev), dev.Close())
		}
		if err != nil {
			t.Errorf("detach %s: %v", d.Path, err)
		}
	})
	t.Cleanup(release)
	return d, release
}

// MountFilesystem creates a filesystem of this size in a file and returns its mount point.
func MountFilesystem(t *testing.T, fsType string, size volume.Size, mkfsOptions ...string) string {
	t.Helper()
	NeedDevices(t)
	if _, err := exec.LookPath("mkfs." + fsType); err != nil {
		t.Skipf("needs mkfs.%s: %v", fsType, err)
	}
	file, dir := filepath.Join(t.TempDir(), fsType), t.TempDir()
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size.Bytes())); err != nil {
		t.Fatal(err)
	}
	Run(t, "mkfs."+fsType, append(append([]string{"-q"}, mkfsOptions...), file)...)
	d, _ := Bind(t, file)
	if err := unix.Mount(d.Path, dir, fsType, 0, ""); err != nil {
		t.Skipf("needs %s: %v", fsType, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	return dir
}
