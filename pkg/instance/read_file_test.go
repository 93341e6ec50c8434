package instance

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Any filesystem will do for the way of reading; ISO 9660 and FAT are not in every
// kernel that runs tests.
func TestReadFromFilesystemReadsRegularFilesOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root and loop devices")
	}
	content := t.TempDir()
	file := filepath.Join(content, metadataPath)
	err := errors.Join(
		os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte("{}"), 0o600),
		os.Symlink("latest/meta_data.json", filepath.Join(content, "openstack", "link")),
	)
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image")
	command(t, "mke2fs", "-q", "-t", "ext4", "-d", content, image, "8M")
	// losetup fails when another program takes the free device meanwhile, and releases it
	// immediately.
	device := command(
		t, "sh", "-c",
		`for i in $(seq 20); do d=$(losetup --find --show --read-only "$1" 2>&1) && break; done; r=$?; echo "$d"; exit $r`,
		"sh", image,
	)
	t.Cleanup(func() { command(t, "losetup", "--detach", device) })

	data, err := readFromFilesystem(device, "ext4", metadataPath, 2)
	if err != nil || string(data) != "{}" {
		t.Errorf("content %q, error %v; want {}", data, err)
	}
	if mounts := mountTable(t); strings.Contains(mounts, device+" ") {
		t.Errorf("the mount stays:\n%s", mounts)
	}
	if _, err := readFromFilesystem(device, "ext4", metadataPath, 1); err == nil ||
		!strings.Contains(err.Error(), "longer") {
		t.Errorf("too long: %v", err)
	}
	for name, want := range map[string]error{
		"openstack/nothing": fs.ErrNotExist, "openstack/link": unix.ELOOP, "../../etc/passwd": unix.EXDEV,
	} {
		if _, err := readFromFilesystem(device, "ext4", name, 10); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	for _, c := range []struct{ device, fstype string }{
		{device, "xfs"}, {device, "no-such-fs"}, {"/dev/nothing", "ext4"},
	} {
		if _, err := readFromFilesystem(c.device, c.fstype, metadataPath, 10); err == nil {
			t.Errorf("%+v could be read", c)
		}
	}
}

func mountTable(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	// The test's own context has ended when cleanups run.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}
