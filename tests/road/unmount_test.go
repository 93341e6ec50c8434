package road

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/co"
)

// foreign is an ext4 on a loop device that the driver has not made, mounted in
// a new directory, with a file in it.
func foreign(t *testing.T) (dir string) {
	t.Helper()
	image, dir := filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "foreign")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 64*mib))
	must(t, command(t, "mkfs.ext4", "-q", image))
	must(t, os.Mkdir(dir, 0o700))
	must(t, command(t, "mount", "-o", "loop", image, dir))
	t.Cleanup(func() { _ = run(context.WithoutCancel(t.Context()), t, nil, "umount", dir) })
	must(t, os.WriteFile(filepath.Join(dir, "precious"), []byte("data"), 0o600))
	return dir
}

// memory is a new tmpfs with a directory in it.
func memory(t *testing.T) (inside string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "memory")
	must(t, os.Mkdir(dir, 0o700))
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	inside = filepath.Join(dir, "inside")
	must(t, os.Mkdir(inside, 0o700))
	return inside
}

// wantLeft checks that the driver refuses to unmount the path for the volume,
// in both ways, and that what is mounted there stays.
func wantLeft(t *testing.T, d *co.Deployment, id, path string, words ...string) {
	t.Helper()
	v := &co.Volume{ID: id, Staging: path, Target: path}
	wantCode(t, d.Unpublish(t.Context(), v), codes.FailedPrecondition, append(words, path)...)
	wantCode(t, d.Unstage(t.Context(), v), codes.FailedPrecondition, append(words, path)...)
	if !mounted(t, path) {
		t.Fatalf("%s is unmounted", path)
	}
}

// An id of which the backend knows nothing gives no right to anything.
func TestUnknownVolumeUnmountsNothing(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	dir := foreign(t)
	for _, id := range []string{"vol-0123456789abcdef0123456789abcdef", "pvc-1", "../../x"} {
		wantLeft(t, d, id, dir, "left alone")
		nothing := &co.Volume{ID: id, Staging: filepath.Join(t.TempDir(), "none"), Target: filepath.Join(t.TempDir(), "none")}
		must(t, d.Unpublish(ctx, nothing))
		must(t, d.Unstage(ctx, nothing))
	}
	if _, err := os.Stat(filepath.Join(dir, "precious")); err != nil {
		t.Error(err)
	}
	must(t, command(t, "umount", dir))
}

// A volume that cannot be read proves nothing of what another one has mounted.
func TestUnreadableVolumeUnmountsNothing(t *testing.T) {
	pool := filepath.Join(t.TempDir(), "pool")
	d, ctx := deploy(t, "--loop-dir="+pool), t.Context()
	a := get(d.Create(ctx, name(t)+"-a", 64*mib, co.Mount("ext4"), nil))(t)
	b := get(d.Create(ctx, name(t)+"-b", 64*mib, co.Mount("ext4"), nil))(t)
	must(t, d.Use(ctx, b))
	meta := filepath.Join(pool, "volumes", a.ID, "meta.json")
	good := get(os.ReadFile(meta))(t)
	must(t, os.WriteFile(meta, []byte("{"), 0o600))
	wrong := &co.Volume{ID: a.ID, Staging: b.Staging, Target: b.Target}
	for what, err := range map[string]error{"unpublish": d.Unpublish(ctx, wrong), "unstage": d.Unstage(ctx, wrong)} {
		if err == nil {
			t.Errorf("%s of an unreadable volume succeeds", what)
		}
	}
	if !mounted(t, b.Staging) || !mounted(t, b.Target) {
		t.Fatal("the mounts of another volume are gone")
	}
	must(t, os.WriteFile(meta, good, 0o600))
	finishAll(t, d, b)
	must(t, d.Delete(ctx, a))
}

// A directory of a tmpfs is no device node, and if it is deleted it is no stale
// one.
func TestDirectoryOfATmpfsIsLeftAlone(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := get(d.Create(ctx, name(t), 64*mib, co.Block(), nil))(t)
	must(t, d.Use(ctx, v))
	inside, target := memory(t), t.TempDir()
	must(t, os.WriteFile(filepath.Join(inside, "precious"), []byte("data"), 0o600))
	must(t, unix.Mount(inside, target, "", unix.MS_BIND, ""))
	wantLeft(t, d, v.ID, target, "left alone")
	must(t, os.RemoveAll(inside))
	wantLeft(t, d, v.ID, target, "left alone")
	must(t, unix.Unmount(target, 0))
	finishAll(t, d, v)
}

// What lies below a mount of the volume on the same path is looked at, too.
func TestLowerMountOfAStackIsLeftAlone(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := get(d.Create(ctx, name(t), 64*mib, co.Mount("ext4"), nil))(t)
	must(t, d.Use(ctx, v))
	dir := foreign(t)
	for range 2 { // two of the volume's over the foreign one
		must(t, unix.Mount(v.Staging, dir, "", unix.MS_BIND, ""))
	}
	wantLeft(t, d, v.ID, dir, "left alone", "/dev/loop")
	if _, err := os.Stat(filepath.Join(dir, "precious")); err != nil {
		t.Error(err)
	}
	must(t, command(t, "umount", dir))
	finishAll(t, d, v)
}

// A pod reads a raw volume that is staged for writing, as others on this node
// may: its device node is read-only, and the call is idempotent.
func TestRawVolumeIsPublishedReadOnly(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := get(d.Create(ctx, name(t), 64*mib, co.Block(), nil))(t)
	must(t, d.Use(ctx, v))
	reader := *v
	reader.Target += "-reader"
	publish := func(readOnly bool) error {
		_, err := d.Driver.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
			VolumeId: v.ID, StagingTargetPath: v.Staging, TargetPath: reader.Target, VolumeCapability: v.Capability, Readonly: readOnly,
		})
		return err
	}
	must(t, publish(true))
	must(t, publish(true))
	wantCode(t, publish(false), codes.AlreadyExists, "read-only=true", "read-only=false")
	text := get(os.ReadFile("/proc/self/mountinfo"))(t)
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); fields[4] == reader.Target && !strings.HasPrefix(fields[5], "ro") {
			t.Errorf("not read-only: %s", line)
		}
	}
	if total, _, err := d.Stats(ctx, &reader); err != nil || total != 64*mib {
		t.Errorf("%s, %v", short(total), err)
	}
	must(t, d.Unpublish(ctx, &reader))
	finishAll(t, d, v)
}

// Figures of another volume, or of what is none, are not given.
func TestStatsOfNothingElse(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	a := get(d.Create(ctx, name(t)+"-a", 64*mib, co.Mount("ext4"), nil))(t)
	b := get(d.Create(ctx, name(t)+"-b", 128*mib, co.Mount("ext4"), nil))(t)
	must(t, d.Use(ctx, a))
	must(t, d.Use(ctx, b))
	for _, path := range []string{b.Target, b.Staging, "/proc", "/", "/dev", filepath.Dir(a.Target), memory(t), foreign(t), "/no/such/path"} {
		total, _, err := d.Stats(ctx, &co.Volume{ID: a.ID, Target: path, Staging: a.Staging})
		wantCode(t, err, codes.NotFound, path)
		if total != 0 {
			t.Errorf("%s: %s", path, short(total))
		}
	}
	if total, _, err := d.Stats(ctx, a); err != nil || total <= 0 || total > 64*mib {
		t.Errorf("%s, %v", volume.Size(total), err)
	}
	finishAll(t, d, a, b)
}
