// Package looptest gives tests loop devices and filesystems on them, with losetup(8) and
// mkfs(8). It skips tests where loop devices or mounts are not possible.
package looptest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// run runs a program for at most a minute and returns its output. It works in cleanups too,
// where the test's context has ended.
func run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Run runs a program for at most a minute. It fails the test if the program fails.
func Run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := run(t, name, args...); err != nil {
		t.Fatalf("%s %s: %v: %s", name, args, err, out)
	}
}

// Bind gives the file a loop device and returns the device's path. release takes the file
// away from the device; it runs at the latest when the test ends.
func Bind(t *testing.T, file string) (device string, release func()) {
	t.Helper()
	device, err := run(t, "losetup", "-f", "--show", file)
	// losetup fails with ENXIO if another process takes the free device and releases it.
	for i := 0; i < 100 && err != nil && strings.Contains(device, "No such device or address"); i++ {
		device, err = run(t, "losetup", "-f", "--show", file)
	}
	if err != nil {
		t.Fatalf("losetup of %s: %v: %s", file, err, device)
	}
	release = sync.OnceFunc(func() { Run(t, "losetup", "-d", device) })
	t.Cleanup(release)
	return device, release
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
	device, _ := Bind(t, file)
	if err := unix.Mount(device, dir, fsType, 0, ""); err != nil {
		t.Skipf("needs %s: %v", fsType, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	return dir
}
