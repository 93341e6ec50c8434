package e2e

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
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// mountForeign is an ext4 on a loop device that the driver has not made, mounted in
// a new directory, with a file in it.
func mountForeign(t *testing.T) (dir string) {
	t.Helper()
	image, dir := filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "foreign")
	must.Succeed(t, os.WriteFile(image, nil, 0o600))
	must.Succeed(t, os.Truncate(image, 64*mib))
	must.Succeed(t, runCommand(t, "mkfs.ext4", "-q", image))
	must.Succeed(t, os.Mkdir(dir, 0o700))
	must.Succeed(t, runCommand(t, "mount", "-o", "loop", image, dir))
	t.Cleanup(func() { _ = runWithInput(context.WithoutCancel(t.Context()), t, nil, "umount", dir) })
	must.Succeed(t, os.WriteFile(filepath.Join(dir, "precious"), []byte("data"), 0o600))
	return dir
}

// mountTmpfs is a new tmpfs with a directory in it.
func mountTmpfs(t *testing.T) (inside string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "memory")
	must.Succeed(t, os.Mkdir(dir, 0o700))
	must.Succeed(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	inside = filepath.Join(dir, "inside")
	must.Succeed(t, os.Mkdir(inside, 0o700))
	return inside
}

// wantUnmountRefused checks that the driver refuses to unmount the path for the volume,
// in both ways, and that what is mounted there stays.
func wantUnmountRefused(t *testing.T, d *csiclient.Deployment, id, path string, words ...string) {
	t.Helper()
	v := &csiclient.Volume{ID: id, Staging: path, Target: path}
	must.FailWith(t, d.Unpublish(t.Context(), v), codes.FailedPrecondition, append(words, path)...)
	must.FailWith(t, d.Unstage(t.Context(), v), codes.FailedPrecondition, append(words, path)...)
	if !isMounted(t, path) {
		t.Fatalf("%s is unmounted", path)
	}
}

// An id of which the backend knows nothing gives no right to anything.
func TestUnmountRefusesUnknownVolumes(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	dir := mountForeign(t)
	for _, id := range []string{"vol-0123456789abcdef0123456789abcdef", "pvc-1", "../../x"} {
		wantUnmountRefused(t, d, id, dir, "left alone")
		nothing := &csiclient.Volume{ID: id, Staging: filepath.Join(t.TempDir(), "none"), Target: filepath.Join(t.TempDir(), "none")}
		must.Succeed(t, d.Unpublish(ctx, nothing))
		must.Succeed(t, d.Unstage(ctx, nothing))
	}
	if _, err := os.Stat(filepath.Join(dir, "precious")); err != nil {
		t.Error(err)
	}
	must.Succeed(t, runCommand(t, "umount", dir))
}

// A volume that cannot be read proves nothing of what another one has mounted.
func TestUnmountRefusesUnreadableVolumes(t *testing.T) {
	pool := filepath.Join(t.TempDir(), "pool")
	d, ctx := deploy(t, "--loop-dir="+pool), t.Context()
	a := must.Value(d.Create(ctx, volumeName(t)+"-a", 64*mib, csiclient.MountCapability("ext4"), nil))(t)
	b := must.Value(d.Create(ctx, volumeName(t)+"-b", 64*mib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, d.Use(ctx, b))
	meta := filepath.Join(pool, "volumes", a.ID, "meta.json")
	good := must.Value(os.ReadFile(meta))(t)
	must.Succeed(t, os.WriteFile(meta, []byte("{"), 0o600))
	wrong := &csiclient.Volume{ID: a.ID, Staging: b.Staging, Target: b.Target}
	for what, err := range map[string]error{"unpublish": d.Unpublish(ctx, wrong), "unstage": d.Unstage(ctx, wrong)} {
		if err == nil {
			t.Errorf("%s of an unreadable volume succeeds", what)
		}
	}
	if !isMounted(t, b.Staging) || !isMounted(t, b.Target) {
		t.Fatal("the mounts of another volume are gone")
	}
	must.Succeed(t, os.WriteFile(meta, good, 0o600))
	releaseAndDelete(t, d, b)
	must.Succeed(t, d.Delete(ctx, a))
}

// A directory of a tmpfs is no device node, and if it is deleted it is no stale
// one.
func TestUnmountRefusesADirectoryOfATmpfs(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), 64*mib, csiclient.BlockCapability(), nil))(t)
	must.Succeed(t, d.Use(ctx, v))
	inside, target := mountTmpfs(t), t.TempDir()
	must.Succeed(t, os.WriteFile(filepath.Join(inside, "precious"), []byte("data"), 0o600))
	must.Succeed(t, unix.Mount(inside, target, "", unix.MS_BIND, ""))
	wantUnmountRefused(t, d, v.ID, target, "left alone")
	must.Succeed(t, os.RemoveAll(inside))
	wantUnmountRefused(t, d, v.ID, target, "left alone")
	must.Succeed(t, unix.Unmount(target, 0))
	releaseAndDelete(t, d, v)
}

// What lies below a mount of the volume on the same path is looked at, too.
func TestUnmountRefusesAStackOverAForeignMount(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), 64*mib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, d.Use(ctx, v))
	dir := mountForeign(t)
	for range 2 { // two of the volume's over the foreign one
		must.Succeed(t, unix.Mount(v.Staging, dir, "", unix.MS_BIND, ""))
	}
	wantUnmountRefused(t, d, v.ID, dir, "left alone", "/dev/loop")
	if _, err := os.Stat(filepath.Join(dir, "precious")); err != nil {
		t.Error(err)
	}
	must.Succeed(t, runCommand(t, "umount", dir))
	releaseAndDelete(t, d, v)
}

// A pod reads a raw volume that is staged for writing, as others on this node
// may: its device node is read-only, and the call is idempotent.
func TestRawVolumeIsPublishedReadOnly(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := must.Value(d.Create(ctx, volumeName(t), 64*mib, csiclient.BlockCapability(), nil))(t)
	must.Succeed(t, d.Use(ctx, v))
	reader := *v
	reader.Target += "-reader"
	publish := func(readOnly bool) error {
		_, err := d.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
			VolumeId: v.ID, StagingTargetPath: v.Staging, TargetPath: reader.Target, VolumeCapability: v.Capability, Readonly: readOnly,
		})
		return err
	}
	must.Succeed(t, publish(true))
	must.Succeed(t, publish(true))
	must.FailWith(t, publish(false), codes.AlreadyExists, "read-only=true", "read-only=false")
	text := must.Value(os.ReadFile("/proc/self/mountinfo"))(t)
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); fields[4] == reader.Target && !strings.HasPrefix(fields[5], "ro") {
			t.Errorf("not read-only: %s", line)
		}
	}
	if total, _, err := d.Stats(ctx, &reader); err != nil || total != 64*mib {
		t.Errorf("%s, %v", formatSize(total), err)
	}
	must.Succeed(t, d.Unpublish(ctx, &reader))
	releaseAndDelete(t, d, v)
}

// Figures of another volume, or of what is none, are not given.
func TestStatsRefusePathsOfOthers(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	a := must.Value(d.Create(ctx, volumeName(t)+"-a", 64*mib, csiclient.MountCapability("ext4"), nil))(t)
	b := must.Value(d.Create(ctx, volumeName(t)+"-b", 128*mib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, d.Use(ctx, a))
	must.Succeed(t, d.Use(ctx, b))
	for _, path := range []string{b.Target, b.Staging, "/proc", "/", "/dev", filepath.Dir(a.Target), mountTmpfs(t), mountForeign(t), "/no/such/path"} {
		total, _, err := d.Stats(ctx, &csiclient.Volume{ID: a.ID, Target: path, Staging: a.Staging})
		must.FailWith(t, err, codes.NotFound, path)
		if total != 0 {
			t.Errorf("%s: %s", path, formatSize(total))
		}
	}
	if total, _, err := d.Stats(ctx, a); err != nil || total <= 0 || total > 64*mib {
		t.Errorf("%s, %v", volume.Size(total), err)
	}
	releaseAndDelete(t, d, a, b)
}
