// Package e2e drives the real plugins over their sockets on a real kernel:
// growth in use, crashes, and every case in which a driver could claim a
// success that is none.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/guest"
	"github.com/growvol/growvol/tests/must"
)

const gib = int64(volume.GiB)

func TestMain(m *testing.M) { os.Exit(csiclient.Main(m, guest.Options{Memory: 4 * volume.GiB})) }

// deploy starts both plugins for a test, whose end must find nothing left.
func deploy(t *testing.T, flags ...string) *csiclient.Deployment {
	t.Helper()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "plugins.log"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := csiclient.Deploy(t.Context(), csiclient.BinDir(), dir, log, append(flags, "--log-level=debug")...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil && !t.Failed() {
			t.Errorf("a plugin did not end well: %v", err)
		}
		if t.Failed() {
			if text, err := os.ReadFile(log.Name()); err == nil {
				t.Logf("log of the plugins:\n%s", text[max(0, len(text)-8000):])
			}
			return
		}
		if left, err := d.Leftovers(); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	return d
}

// mountedDevice returns the device that is mounted at a path.
func mountedDevice(t *testing.T, path string) blockdev.Device {
	t.Helper()
	m, ok, err := filesystem.New(filesystem.Options{}).FindMount(path)
	if err != nil || !ok {
		t.Fatalf("nothing is mounted at %s (%v)", path, err)
	}
	return must.Value(blockdev.New().ByPath(m.Source))(t)
}

// unmount takes away what is mounted at a path.
func unmount(t *testing.T, path string) {
	t.Helper()
	s := filesystem.New(filesystem.Options{})
	m, ok, err := s.FindMount(path)
	if err != nil || !ok {
		t.Fatalf("nothing is mounted at %s (%v)", path, err)
	}
	must.Succeed(t, s.Unmount(t.Context(), m))
}

// readSizes reads device and filesystem, independently of what plugins say.
func readSizes(t *testing.T, v *csiclient.Volume) (device, fs int64) {
	t.Helper()
	dev := mountedDevice(t, v.Staging)
	h := must.Value(blockdev.New().Open(dev))(t)
	defer h.Close() //nolint:errcheck // only read from
	g := must.Value(filesystem.New(filesystem.Options{}).Geometry(t.Context(), h, v.Staging))(t)
	return must.Value(blockdev.New().Size(dev))(t).Bytes(), g.Size().Bytes()
}

// wantSize checks the size of device and filesystem; a filesystem may leave
// a tail that is too short for it.
func wantSize(t *testing.T, v *csiclient.Volume, size int64) {
	t.Helper()
	device, fs := readSizes(t, v)
	if device != size || fs > size || fs < size-int64(volume.MiB) {
		t.Errorf("device %s, filesystem %s; want %s", volume.Size(device), volume.Size(fs), volume.Size(size))
	}
}

// fsck checks an unmounted filesystem with its own tool.
func fsck(t *testing.T, fstype, device string) {
	t.Helper()
	args := map[string][]string{"xfs": {"xfs_repair", "-n", "-P"}, "btrfs": {"btrfs", "check", "--readonly"}}[fstype]
	if args == nil {
		args = []string{"e2fsck", "-f", "-n"}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, args[0], append(args[1:], device)...).CombinedOutput(); err != nil { //nolint:gosec // a fixed list
		t.Errorf("%s %s: %v\n%s", strings.Join(args, " "), device, err, out)
	}
}

// loopDeviceOf is the loop device of a volume that is staged.
func loopDeviceOf(t *testing.T, v *csiclient.Volume) blockdev.Device {
	t.Helper()
	found := must.Value(filepath.Glob("/sys/block/loop*/loop/backing_file"))(t)
	for _, f := range found {
		text, err := os.ReadFile(f) //nolint:gosec // sysfs
		if err == nil && strings.Contains(string(text), v.ID) {
			return must.Value(blockdev.New().ByPath("/dev/" + strings.Split(f, "/")[3]))(t)
		}
	}
	t.Fatalf("no loop device of %s", v.ID)
	return blockdev.Device{}
}

// verifyAndDelete releases and deletes the volume, checking filesystem and data on the
// way: the data after a fresh mount, so that it comes from the device.
func verifyAndDelete(t *testing.T, d *csiclient.Deployment, v *csiclient.Volume, w *csiclient.Writer, fstype string) int64 {
	t.Helper()
	ctx := t.Context()
	must.Succeed(t, w.Stop())
	must.Succeed(t, d.Release(ctx, v))
	must.Succeed(t, d.Use(ctx, v))
	n := must.Value(w.Verify(v.Target))(t)
	must.Succeed(t, d.Unpublish(ctx, v))
	dev := mountedDevice(t, v.Staging)
	unmount(t, v.Staging)
	fsck(t, fstype, dev.Path)
	must.Succeed(t, d.Unstage(ctx, v))
	must.Succeed(t, d.Detach(ctx, v))
	must.Succeed(t, d.Delete(ctx, v))
	return n
}

func volumeName(t *testing.T) string {
	t.Helper()
	return strings.ToLower(strings.NewReplacer("/", "-", "_", "-", " ", "-").Replace(t.Name()))
}

func formatSize(size int64) string { return fmt.Sprint(volume.Size(size)) }
