package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// wantConditions fails the test unless these are the volume's conditions, within
// a while: some of what the kernel notices it notices a moment later.
func wantConditions(t *testing.T, d *csiclient.Deployment, v *csiclient.Volume, want ...string) map[string]string {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		h, err := d.Health(t.Context(), v)
		reasons := slices.Sorted(maps.Keys(h))
		if err == nil && slices.Equal(reasons, want) {
			return h
		}
		if time.Now().After(deadline) || operation.Sleep(t.Context(), 20*time.Millisecond) != nil {
			t.Fatalf("conditions %v, %v; want %v", h, err, want)
		}
	}
}

// A restore into a larger claim, with a filesystem that the kernel cannot grow
// in use: Kubernetes never asks for its growth. The pod has its data, and the
// shortfall is reported until somebody has repaired it.
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
	h := wantConditions(t, d, v, "FilesystemSmallerThanVolume")
	for _, word := range []string{"1 GiB", "2 GiB", "sparse_super2", "next step"} {
		if !strings.Contains(h["FilesystemSmallerThanVolume"], word) {
			t.Errorf("the condition does not mention %q: %s", word, h["FilesystemSmallerThanVolume"])
		}
	}
	// Somebody repairs it, as the remedy says.
	must.Succeed(t, d.Unpublish(ctx, v))
	unmount(t, v.Staging)
	must.Succeed(t, runCommand(t, "e2fsck", "-f", "-p", dev.Path))
	must.Succeed(t, runCommand(t, "resize2fs", dev.Path))
	must.Succeed(t, d.Stage(ctx, v))
	must.Succeed(t, d.Publish(ctx, v))
	wantConditions(t, d, v)
	wantSize(t, v, 2*gib)
	if data, err := os.ReadFile(file); err != nil || string(data) != "data" {
		t.Errorf("read %q, %v", data, err)
	}
	must.Succeed(t, d.Release(ctx, v))
	must.Succeed(t, d.Delete(ctx, v))
}

// What the kernel does after an error is a condition of the volume.
func TestHealthReportsFailedFilesystems(t *testing.T) {
	t.Run("ext4 with an error on record", func(t *testing.T) {
		d, ctx := deploy(t), t.Context()
		v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.MountCapability("ext4"), nil))(t)
		must.Succeed(t, d.Attach(ctx, v))
		must.Succeed(t, d.Use(ctx, v))
		wantConditions(t, d, v)
		trigger := filepath.Join("/sys/fs/ext4", loopDeviceOf(t, v).Name, "trigger_fs_error")
		must.Succeed(t, os.WriteFile(trigger, []byte("test"), 0o200))
		wantConditions(t, d, v, "FilesystemErrors")
		must.Succeed(t, d.Release(ctx, v))
		must.Succeed(t, d.Use(ctx, v)) // e2fsck -p repairs it
		wantConditions(t, d, v)
		must.Succeed(t, d.Release(ctx, v))
		must.Succeed(t, d.Delete(ctx, v))
	})
	t.Run("xfs that has shut down", func(t *testing.T) {
		d, ctx := deploy(t), t.Context()
		v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.MountCapability("xfs"), nil))(t)
		must.Succeed(t, d.Attach(ctx, v))
		must.Succeed(t, d.Use(ctx, v))
		wantConditions(t, d, v)
		shutDownXFS(t, v.Staging)
		wantConditions(t, d, v, "FilesystemFailed")
		must.Succeed(t, d.Release(ctx, v))
		must.Succeed(t, d.Use(ctx, v))
		wantConditions(t, d, v)
		must.Succeed(t, d.Release(ctx, v))
		must.Succeed(t, d.Delete(ctx, v))
	})
}

// shutDownXFS is XFS_IOC_GOINGDOWN (fs/xfs/libxfs/xfs_fs.h), without flushing
// the log.
func shutDownXFS(t *testing.T, path string) {
	t.Helper()
	dir, err := os.Open(path)
	must.Succeed(t, err)
	defer dir.Close() //nolint:errcheck // only read from
	const goingDown, noLogFlush = 0x8004587d, 2
	must.Succeed(t, unix.IoctlSetPointerInt(int(dir.Fd()), goingDown, noLogFlush))
}
