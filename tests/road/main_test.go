// Package road drives the real plugins over their sockets on a real kernel:
// growth in use, crashes, and every case in which a driver could claim a
// success that is none.
package road

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/co"
	"github.com/growvol/growvol/tests/guest"
)

const gib = int64(volume.GiB)

func TestMain(m *testing.M) { os.Exit(co.Main(m, guest.Options{Memory: 4 * volume.GiB})) }

// deploy starts both plugins for a test, whose end must find nothing left.
func deploy(t *testing.T, flags ...string) *co.Deployment {
	t.Helper()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "plugins.log"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := co.Deploy(t.Context(), co.Bin(), dir, log, append(flags, "--log-level=debug")...)
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

// must fails the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// get fails the test on an error and returns the value.
func get[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		must(t, err)
		return v
	}
}

// wantCode fails the test unless err has the code and its message each word.
func wantCode(t *testing.T, err error, code codes.Code, words ...string) {
	t.Helper()
	if got := status.Code(err); got != code {
		t.Fatalf("code %s, want %s: %v", got, code, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the message does not mention %q: %v", w, err)
		}
	}
}

// source returns the device that is mounted at a path.
func source(t *testing.T, path string) blockdev.Device {
	t.Helper()
	m, ok, err := filesystem.New(filesystem.Options{}).FindMount(path)
	if err != nil || !ok {
		t.Fatalf("nothing is mounted at %s (%v)", path, err)
	}
	return get(blockdev.New().ByPath(m.Source))(t)
}

// unmount takes away what is mounted at a path.
func unmount(t *testing.T, path string) {
	t.Helper()
	s := filesystem.New(filesystem.Options{})
	m, ok, err := s.FindMount(path)
	if err != nil || !ok {
		t.Fatalf("nothing is mounted at %s (%v)", path, err)
	}
	must(t, s.Unmount(t.Context(), m))
}

// sizes reads device and filesystem, independently of what plugins say.
func sizes(t *testing.T, v *co.Volume) (device, fs int64) {
	t.Helper()
	dev := source(t, v.Staging)
	h := get(blockdev.New().Open(dev))(t)
	defer h.Close() //nolint:errcheck // only read from
	g := get(filesystem.New(filesystem.Options{}).Geometry(t.Context(), h, v.Staging))(t)
	return get(blockdev.New().Size(dev))(t).Bytes(), g.Size().Bytes()
}

// wantGrown checks the size of device and filesystem; a filesystem may leave
// a tail that is too short for it.
func wantGrown(t *testing.T, v *co.Volume, size int64) {
	t.Helper()
	device, fs := sizes(t, v)
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

// connected is the loop device of a volume that is staged.
func connected(t *testing.T, v *co.Volume) blockdev.Device {
	t.Helper()
	found := get(filepath.Glob("/sys/block/loop*/loop/backing_file"))(t)
	for _, f := range found {
		text, err := os.ReadFile(f) //nolint:gosec // sysfs
		if err == nil && strings.Contains(string(text), v.ID) {
			return get(blockdev.New().ByPath("/dev/" + strings.Split(f, "/")[3]))(t)
		}
	}
	t.Fatalf("no loop device of %s", v.ID)
	return blockdev.Device{}
}

// finish releases and deletes the volume, checking filesystem and data on the
// way: the data after a fresh mount, so that it comes from the device.
func finish(t *testing.T, d *co.Deployment, v *co.Volume, w *co.Writer, fstype string) int64 {
	t.Helper()
	ctx := t.Context()
	must(t, w.Stop())
	must(t, d.Release(ctx, v))
	must(t, d.Use(ctx, v))
	n := get(w.Verify(v.Target))(t)
	must(t, d.Unpublish(ctx, v))
	dev := source(t, v.Staging)
	unmount(t, v.Staging)
	fsck(t, fstype, dev.Path)
	must(t, d.Unstage(ctx, v))
	must(t, d.Detach(ctx, v))
	must(t, d.Delete(ctx, v))
	return n
}

func name(t *testing.T) string {
	t.Helper()
	return strings.ToLower(strings.NewReplacer("/", "-", "_", "-", " ", "-").Replace(t.Name()))
}

func short(size int64) string { return fmt.Sprint(volume.Size(size)) }
