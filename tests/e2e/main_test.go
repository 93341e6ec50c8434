// Package e2e drives the real plugins over their sockets on a real kernel, in a guest:
// growth in use, crashes, and every case in which a driver could report a success that
// has not happened. Volumes are those of the loop backend.
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

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/guest"
	"github.com/growvol/growvol/tests/must"
)

// Sizes in bytes.
const (
	gib = int64(volume.GiB)
	mib = int64(volume.MiB)
)

func TestMain(m *testing.M) { os.Exit(csiclient.Main(m, guest.Options{Memory: 4 * volume.GiB})) }

// deploy starts both plugins with the further flags. At the end of the test it
// stops them and fails the test if a volume, mount or device is left.
func deploy(t *testing.T, flags ...string) *csiclient.Deployment {
	t.Helper()
	dir := t.TempDir()
	log := must.Value(os.Create(filepath.Join(dir, "plugins.log")))(t)
	flags = append(flags, "--log-level=debug")
	d := must.Value(csiclient.Deploy(t.Context(), csiclient.BinDir(), dir, log, flags...))(t)
	t.Cleanup(func() {
		if err := d.Stop(); err != nil && !t.Failed() {
			t.Errorf("stop the plugins: %v", err)
		}
		if t.Failed() {
			if text, err := os.ReadFile(log.Name()); err == nil {
				t.Logf("end of the plugins' log:\n%s", text[max(0, len(text)-8000):])
			}
			return
		}
		if left, err := d.Leftovers(); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	return d
}

// createAndUse creates a volume of size bytes, attaches, stages and publishes it.
func createAndUse(
	t *testing.T, d *csiclient.Deployment, name string, size int64, capability *csi.VolumeCapability,
) *csiclient.Volume {
	t.Helper()
	v := must.Value(d.Create(t.Context(), name, size, capability, nil))(t)
	must.Succeed(t, d.Use(t.Context(), v))
	return v
}

// releaseAndDelete unpublishes, unstages, detaches and deletes the volumes.
func releaseAndDelete(t *testing.T, d *csiclient.Deployment, volumes ...*csiclient.Volume) {
	t.Helper()
	for _, v := range volumes {
		must.Succeed(t, d.Release(t.Context(), v))
		must.Succeed(t, d.Delete(t.Context(), v))
	}
}

// verifyAndDelete stops the writer, verifies its data and the filesystem, deletes the
// volume and returns the number of bytes verified. The data is read after a new mount,
// so that it comes from the device.
func verifyAndDelete(
	t *testing.T, d *csiclient.Deployment, v *csiclient.Volume, w *csiclient.Writer, fstype string,
) int64 {
	t.Helper()
	ctx := t.Context()
	must.Succeed(t, w.Stop())
	must.Succeed(t, d.Release(ctx, v))
	must.Succeed(t, d.Use(ctx, v))
	n := must.Value(w.Verify(v.Target))(t)
	checkAndDelete(t, d, v, fstype)
	return n
}

// checkAndDelete unmounts a volume that is published, checks its filesystem and
// deletes the volume.
func checkAndDelete(t *testing.T, d *csiclient.Deployment, v *csiclient.Volume, fstype string) {
	t.Helper()
	ctx := t.Context()
	dev := mountedDevice(t, v.Staging)
	must.Succeed(t, d.Unpublish(ctx, v))
	unmount(t, v.Staging)
	fsck(t, fstype, dev.Path)
	must.Succeed(t, d.Unstage(ctx, v))
	must.Succeed(t, d.Detach(ctx, v))
	must.Succeed(t, d.Delete(ctx, v))
}

// mountedDevice returns the device that is mounted at path.
func mountedDevice(t *testing.T, path string) blockdev.Device {
	t.Helper()
	return must.Value(blockdev.New().ByPath(findMount(t, path).Source))(t)
}

// unmount unmounts what is mounted at path.
func unmount(t *testing.T, path string) {
	t.Helper()
	must.Succeed(t, filesystem.New(filesystem.Options{}).Unmount(t.Context(), findMount(t, path)))
}

// findMount returns the mount at path, which must exist.
func findMount(t *testing.T, path string) filesystem.Mount {
	t.Helper()
	m, found, err := filesystem.New(filesystem.Options{}).FindMount(path)
	if err != nil || !found {
		t.Fatalf("nothing is mounted at %s (%v)", path, err)
	}
	return m
}

// isMounted reports whether a filesystem is mounted at path.
func isMounted(t *testing.T, path string) bool {
	t.Helper()
	_, found, err := filesystem.New(filesystem.Options{}).FindMount(path)
	must.Succeed(t, err)
	return found
}

// readSizes reads the sizes of the device and of the filesystem of a staged volume, in
// bytes, whatever the plugins answer.
func readSizes(t *testing.T, v *csiclient.Volume) (device, fs int64) {
	t.Helper()
	dev := mountedDevice(t, v.Staging)
	h := must.Value(blockdev.New().Open(dev))(t)
	defer h.Close() //nolint:errcheck // only read from
	m := must.Value(filesystem.New(filesystem.Options{}).Measure(t.Context(), h, v.Staging))(t)
	return must.Value(blockdev.New().Size(dev))(t).Bytes(), m.Size.Bytes()
}

// wantSize fails the test unless the device has size bytes and the filesystem at most 1
// MiB less: a filesystem cannot use a shorter tail.
func wantSize(t *testing.T, v *csiclient.Volume, size int64) {
	t.Helper()
	device, fs := readSizes(t, v)
	if device != size || fs > size || fs < size-mib {
		t.Errorf("got a device of %s and a filesystem of %s, want %s", formatSize(device), formatSize(fs), formatSize(size))
	}
}

// fsck checks an unmounted filesystem with its own tool, which changes nothing.
func fsck(t *testing.T, fstype, device string) {
	t.Helper()
	args := map[string][]string{"xfs": {"xfs_repair", "-n", "-P"}, "btrfs": {"btrfs", "check", "--readonly"}}[fstype]
	if args == nil {
		args = []string{"e2fsck", "-f", "-n"}
	}
	if err := runCommand(t, args[0], append(args[1:], device)...); err != nil {
		t.Error(err)
	}
}

// loopDeviceOf returns the loop device of a staged volume.
func loopDeviceOf(t *testing.T, v *csiclient.Volume) blockdev.Device {
	t.Helper()
	for _, path := range must.Value(filepath.Glob("/sys/block/loop*/loop/backing_file"))(t) {
		file, err := os.ReadFile(path) //nolint:gosec // sysfs
		if err == nil && strings.Contains(string(file), v.ID) {
			return must.Value(blockdev.New().ByPath("/dev/" + strings.Split(path, "/")[3]))(t)
		}
	}
	t.Fatalf("volume %s has no loop device", v.ID)
	return blockdev.Device{}
}

// runCommand runs a program of the guest for a minute at most.
func runCommand(t *testing.T, program string, args ...string) error {
	t.Helper()
	return runWithInput(t.Context(), t, "", program, args...)
}

// runWithInput is runCommand with standard input. Its error contains the output.
func runWithInput(ctx context.Context, t *testing.T, input, program string, args ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(input)
	cmd.Env = append(os.Environ(), "DM_DISABLE_UDEV=1") // the guest has no udev
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, out)
	}
	return nil
}

// volumeName returns a volume name made of the test's name.
func volumeName(t *testing.T) string {
	t.Helper()
	return strings.ToLower(strings.NewReplacer("/", "-", "_", "-", " ", "-").Replace(t.Name()))
}

// formatSize formats a size in bytes for messages.
func formatSize(size int64) string { return fmt.Sprint(volume.Size(size)) }
