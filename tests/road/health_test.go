package road

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

	"github.com/growvol/growvol/tests/co"
)

// wantReasons fails the test unless these are the volume's conditions, within
// a while: some of what the kernel notices it notices a moment later.
func wantReasons(t *testing.T, d *co.Deployment, v *co.Volume, want ...string) map[string]string {
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
func TestStageOfAFilesystemThatCannotGrow(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := get(d.Create(ctx, name(t), 2*gib, co.Mount("ext4"), nil))(t)
	must(t, d.Attach(ctx, v))
	block := *v
	block.Capability = co.Block() // only to connect the device
	must(t, d.Stage(ctx, &block))
	dev := connected(t, v)
	must(t, command(t, "mkfs.ext4", "-q", "-b", "4096", "-O", "sparse_super2", dev.Path, "1G"))
	must(t, d.Unstage(ctx, &block))

	must(t, d.Use(ctx, v))
	dev = connected(t, v)
	file := filepath.Join(v.Target, "file")
	must(t, os.WriteFile(file, []byte("data"), 0o600))
	h := wantReasons(t, d, v, "FilesystemSmallerThanVolume")
	for _, word := range []string{"1 GiB", "2 GiB", "sparse_super2", "next step"} {
		if !strings.Contains(h["FilesystemSmallerThanVolume"], word) {
			t.Errorf("the condition does not mention %q: %s", word, h["FilesystemSmallerThanVolume"])
		}
	}
	// Somebody repairs it, as the remedy says.
	must(t, d.Unpublish(ctx, v))
	unmount(t, v.Staging)
	must(t, command(t, "e2fsck", "-f", "-p", dev.Path))
	must(t, command(t, "resize2fs", dev.Path))
	must(t, d.Stage(ctx, v))
	must(t, d.Publish(ctx, v))
	wantReasons(t, d, v)
	wantGrown(t, v, 2*gib)
	if data, err := os.ReadFile(file); err != nil || string(data) != "data" {
		t.Errorf("read %q, %v", data, err)
	}
	must(t, d.Release(ctx, v))
	must(t, d.Delete(ctx, v))
}

// What the kernel does after an error is a condition of the volume.
func TestHealthOfFilesystemsThatFail(t *testing.T) {
	t.Run("ext4 with an error on record", func(t *testing.T) {
		d, ctx := deploy(t), t.Context()
		v := get(d.Create(ctx, name(t), gib, co.Mount("ext4"), nil))(t)
		must(t, d.Attach(ctx, v))
		must(t, d.Use(ctx, v))
		wantReasons(t, d, v)
		trigger := filepath.Join("/sys/fs/ext4", connected(t, v).Name, "trigger_fs_error")
		must(t, os.WriteFile(trigger, []byte("test"), 0o200))
		wantReasons(t, d, v, "FilesystemErrors")
		must(t, d.Release(ctx, v))
		must(t, d.Use(ctx, v)) // e2fsck -p repairs it
		wantReasons(t, d, v)
		must(t, d.Release(ctx, v))
		must(t, d.Delete(ctx, v))
	})
	t.Run("xfs that has shut down", func(t *testing.T) {
		d, ctx := deploy(t), t.Context()
		v := get(d.Create(ctx, name(t), gib, co.Mount("xfs"), nil))(t)
		must(t, d.Attach(ctx, v))
		must(t, d.Use(ctx, v))
		wantReasons(t, d, v)
		shutDownXFS(t, v.Staging)
		wantReasons(t, d, v, "FilesystemFailed")
		must(t, d.Release(ctx, v))
		must(t, d.Use(ctx, v))
		wantReasons(t, d, v)
		must(t, d.Release(ctx, v))
		must(t, d.Delete(ctx, v))
	})
}

// shutDownXFS is XFS_IOC_GOINGDOWN (fs/xfs/libxfs/xfs_fs.h), without flushing
// the log.
func shutDownXFS(t *testing.T, path string) {
	t.Helper()
	dir, err := os.Open(path)
	must(t, err)
	defer dir.Close() //nolint:errcheck // only read from
	const goingDown, noLogFlush = 0x8004587d, 2
	must(t, unix.IoctlSetPointerInt(int(dir.Fd()), goingDown, noLogFlush))
}
