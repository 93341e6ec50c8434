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

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// mountForeign mounts an ext4 filesystem, on a loop device that the driver did not
// make, in a new directory and writes a file to it.
func mountForeign(t *testing.T) (dir string) {
	t.Helper()
	image, dir := filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "foreign")
	must.Succeed(t, os.WriteFile(image, nil, 0o600))
	must.Succeed(t, os.Truncate(image, 64*mib))
	must.Succeed(t, runCommand(t, "mkfs.ext4", "-q", image))
	must.Succeed(t, os.Mkdir(dir, 0o700))
	must.Succeed(t, runCommand(t, "mount", "-o", "loop", image, dir))
	t.Cleanup(func() { _ = runWithInput(context.WithoutCancel(t.Context()), t, "", "umount", dir) })
	must.Succeed(t, os.WriteFile(filepath.Join(dir, "file"), []byte("data"), 0o600))
	return dir
}

// mountTmpfs mounts a new tmpfs and returns a directory in it.
func mountTmpfs(t *testing.T) string {
	t.Helper()
	mountPoint := filepath.Join(t.TempDir(), "tmpfs")
	must.Succeed(t, os.Mkdir(mountPoint, 0o700))
	must.Succeed(t, unix.Mount("tmpfs", mountPoint, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(mountPoint, unix.MNT_DETACH) })
	dir := filepath.Join(mountPoint, "directory")
	must.Succeed(t, os.Mkdir(dir, 0o700))
	return dir
}

// wantUnmountRefused ends the test unless unpublish and unstage of the volume id
// both refuse path with all the words, and leave it mounted.
func wantUnmountRefused(t *testing.T, d *csiclient.Deployment, id, path string, words ...string) {
	t.Helper()
	v := &csiclient.Volume{ID: id, Staging: path, Target: path}
	must.FailWith(t, d.Unpublish(t.Context(), v), codes.FailedPrecondition, append(words, path)...)
	must.FailWith(t, d.Unstage(t.Context(), v), codes.FailedPrecondition, append(words, path)...)
	if !isMounted(t, path) {
		t.Fatalf("%s is unmounted", path)
	}
}

// The id of a volume that the backend does not know permits no unmount. At paths
// that do not exist, unpublish and unstage succeed.
func TestUnmountRefusesUnknownVolumes(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	dir := mountForeign(t)
	for _, id := range []string{"vol-0123456789abcdef0123456789abcdef", "pvc-1", "../../x"} {
		wantUnmountRefused(t, d, id, dir, "left alone")
		missing := filepath.Join(t.TempDir(), "missing")
		v := &csiclient.Volume{ID: id, Staging: missing, Target: missing}
		must.Succeed(t, d.Unpublish(ctx, v))
		must.Succeed(t, d.Unstage(ctx, v))
	}
	if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
		t.Error(err)
	}
	must.Succeed(t, runCommand(t, "umount", dir))
}

// A volume whose record cannot be read permits no unmount of another volume.
func TestUnmountRefusesUnreadableVolumes(t *testing.T) {
	pool := filepath.Join(t.TempDir(), "pool")
	d, ctx := deploy(t, "--loop-dir="+pool), t.Context()
	a := must.Value(d.Create(ctx, volumeName(t)+"-a", 64*mib, csiclient.MountCapability("ext4"), nil))(t)
	b := createAndUse(t, d, volumeName(t)+"-b", 64*mib, csiclient.MountCapability("ext4"))
	meta := filepath.Join(pool, "volumes", a.ID, "meta.json")
	original := must.Value(os.ReadFile(meta))(t)
	must.Succeed(t, os.WriteFile(meta, []byte("{"), 0o600))
	wrong := &csiclient.Volume{ID: a.ID, Staging: b.Staging, Target: b.Target}
	for call, err := range map[string]error{"unpublish": d.Unpublish(ctx, wrong), "unstage": d.Unstage(ctx, wrong)} {
		if err == nil {
			t.Errorf("%s of an unreadable volume succeeded", call)
		}
	}
	if !isMounted(t, b.Staging) || !isMounted(t, b.Target) {
		t.Fatal("the mounts of another volume are gone")
	}
	must.Succeed(t, os.WriteFile(meta, original, 0o600))
	releaseAndDelete(t, d, b)
	must.Succeed(t, d.Delete(ctx, a))
}

// A directory of a tmpfs that is bind-mounted at the target is not the volume's
// device node, also when the directory has been deleted.
func TestUnmountRefusesADirectoryOfATmpfs(t *testing.T) {
	d := deploy(t)
	v := createAndUse(t, d, volumeName(t), 64*mib, csiclient.BlockCapability())
	inside, target := mountTmpfs(t), t.TempDir()
	must.Succeed(t, os.WriteFile(filepath.Join(inside, "file"), []byte("data"), 0o600))
	must.Succeed(t, unix.Mount(inside, target, "", unix.MS_BIND, ""))
	wantUnmountRefused(t, d, v.ID, target, "left alone")
	must.Succeed(t, os.RemoveAll(inside))
	wantUnmountRefused(t, d, v.ID, target, "left alone")
	must.Succeed(t, unix.Unmount(target, 0))
	releaseAndDelete(t, d, v)
}

// Mounts of the volume over a foreign mount on the same path permit no unmount:
// every mount of the stack is checked.
func TestUnmountRefusesAStackOverAForeignMount(t *testing.T) {
	d := deploy(t)
	v := createAndUse(t, d, volumeName(t), 64*mib, csiclient.MountCapability("ext4"))
	dir := mountForeign(t)
	for range 2 {
		must.Succeed(t, unix.Mount(v.Staging, dir, "", unix.MS_BIND, ""))
	}
	wantUnmountRefused(t, d, v.ID, dir, "left alone", "/dev/loop")
	if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
		t.Error(err)
	}
	must.Succeed(t, runCommand(t, "umount", dir))
	releaseAndDelete(t, d, v)
}

// A raw volume that is staged writable is published read-only: the device node is
// mounted read-only, a repeated call succeeds, and a call for a writable one at the
// same path fails.
func TestRawVolumeIsPublishedReadOnly(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	v := createAndUse(t, d, volumeName(t), 64*mib, csiclient.BlockCapability())
	reader := *v
	reader.Target += "-reader"
	publish := func(readOnly bool) error {
		_, err := d.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
			VolumeId: v.ID, StagingTargetPath: v.Staging, TargetPath: reader.Target,
			VolumeCapability: v.Capability, Readonly: readOnly,
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
		t.Errorf("got stats of %s, %v; want 64 MiB", formatSize(total), err)
	}
	must.Succeed(t, d.Unpublish(ctx, &reader))
	releaseAndDelete(t, d, v)
}

// NodeGetVolumeStats answers for the volume's own paths only.
func TestStatsRefusePathsOfOthers(t *testing.T) {
	d, ctx := deploy(t), t.Context()
	a := must.Value(d.Create(ctx, volumeName(t)+"-a", 64*mib, csiclient.MountCapability("ext4"), nil))(t)
	b := must.Value(d.Create(ctx, volumeName(t)+"-b", 128*mib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, d.Use(ctx, a))
	must.Succeed(t, d.Use(ctx, b))
	for _, path := range []string{
		b.Target, b.Staging, "/proc", "/", "/dev", filepath.Dir(a.Target), mountTmpfs(t), mountForeign(t), "/no/such/path",
	} {
		total, _, err := d.Stats(ctx, &csiclient.Volume{ID: a.ID, Target: path, Staging: a.Staging})
		must.FailWith(t, err, codes.NotFound, path)
		if total != 0 {
			t.Errorf("%s: got stats of %s beside the error", path, formatSize(total))
		}
	}
	if total, _, err := d.Stats(ctx, a); err != nil || total <= 0 || total > 64*mib {
		t.Errorf("got stats of %s, %v; want up to 64 MiB", formatSize(total), err)
	}
	releaseAndDelete(t, d, a, b)
}
