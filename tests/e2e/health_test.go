package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// wantConditions ends the test unless the node reports exactly the conditions with
// these reasons within a minute, and returns their messages by reason. The kernel notices
// some errors only a moment after they happened.
func wantConditions(t *testing.T, d *csiclient.Deployment, v *csiclient.Volume, want ...string) map[string]string {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		conditions, err := d.Health(t.Context(), v)
		if err == nil && slices.Equal(slices.Sorted(maps.Keys(conditions)), want) {
			return conditions
		}
		if time.Now().After(deadline) || operation.Sleep(t.Context(), 20*time.Millisecond) != nil {
			t.Fatalf("got the conditions %v, %v; want %v", conditions, err, want)
		}
	}
}

// A snapshot is restored into a larger claim, and its filesystem cannot grow in use.
// Kubernetes calls no NodeExpandVolume for it. Stage succeeds, so that the pod has its
// data, and the node reports the condition until an administrator has grown the
// filesystem.
func TestStageReportsAFilesystemThatCannotGrow(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), 2*gib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, d.Attach(ctx, v))
	block := *v
	block.Capability = csiclient.BlockCapability() // only to connect the device
	must.Succeed(t, d.Stage(ctx, &block))
	dev := loopDeviceOf(t, v)
	must.Succeed(t, runCommand(t, "mkfs.ext4", "-q", "-b", "4096", "-O", "sparse_super2", dev.Path, "1G"))
	must.Succeed(t, d.Unstage(ctx, &block))

	must.Succeed(t, d.Use(ctx, v))
	dev = loopDeviceOf(t, v)
	file := filepath.Join(v.Target, "file")
	must.Succeed(t, os.WriteFile(file, []byte("data"), 0o600))
	message := wantConditions(t, d, v, "FilesystemSmallerThanVolume")["FilesystemSmallerThanVolume"]
	for _, word := range []string{"1 GiB", "2 GiB", "sparse_super2", "next step"} {
		if !strings.Contains(message, word) {
			t.Errorf("the condition does not contain %q: %s", word, message)
		}
	}
	// The administrator follows the next step.
	must.Succeed(t, d.Unpublish(ctx, v))
	unmount(t, v.Staging)
	must.Succeed(t, runCommand(t, "e2fsck", "-f", "-p", dev.Path))
	must.Succeed(t, runCommand(t, "resize2fs", dev.Path))
	must.Succeed(t, d.Stage(ctx, v))
	must.Succeed(t, d.Publish(ctx, v))
	wantConditions(t, d, v)
	wantSize(t, v, 2*gib)
	if data, err := os.ReadFile(file); err != nil || string(data) != "data" {
		t.Errorf("got %q, %v; want the file's data", data, err)
	}
	releaseAndDelete(t, d, v)
}

// The node reports what the kernel does to a filesystem after an error, and nothing
// more once the filesystem is repaired.
func TestHealthReportsFailedFilesystems(t *testing.T) {
	t.Run("ext4 with an error on record", func(t *testing.T) {
		d, ctx := deploy(t), t.Context()
		v := createAndUse(t, d, volumeName(t), gib, csiclient.MountCapability("ext4"))
		wantConditions(t, d, v)
		trigger := filepath.Join("/sys/fs/ext4", loopDeviceOf(t, v).Name, "trigger_fs_error")
		must.Succeed(t, os.WriteFile(trigger, []byte("test"), 0o200))
		wantConditions(t, d, v, "FilesystemErrors")
		must.Succeed(t, d.Release(ctx, v))
		must.Succeed(t, d.Use(ctx, v)) // e2fsck -p repairs it
		wantConditions(t, d, v)
		releaseAndDelete(t, d, v)
	})
	t.Run("xfs that has shut down", func(t *testing.T) {
		d, ctx := deploy(t), t.Context()
		v := createAndUse(t, d, volumeName(t), gib, csiclient.MountCapability("xfs"))
		wantConditions(t, d, v)
		shutDownXFS(t, v.Staging)
		wantConditions(t, d, v, "FilesystemFailed")
		must.Succeed(t, d.Release(ctx, v))
		must.Succeed(t, d.Use(ctx, v))
		wantConditions(t, d, v)
		releaseAndDelete(t, d, v)
	})
}

// shutDownXFS shuts down the filesystem at path without flushing its log, with the
// ioctl XFS_IOC_GOINGDOWN of fs/xfs/libxfs/xfs_fs.h.
func shutDownXFS(t *testing.T, path string) {
	t.Helper()
	dir, err := os.Open(path)
	must.Succeed(t, err)
	defer dir.Close() //nolint:errcheck // only read from
	const goingDown, noLogFlush = 0x8004587d, 2
	must.Succeed(t, unix.IoctlSetPointerInt(int(dir.Fd()), goingDown, noLogFlush))
}
