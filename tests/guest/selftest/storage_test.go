package selftest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/tests/guest"
	"github.com/growvol/growvol/tests/must"
)

func TestFilesystemsWorkOnLoopDevices(t *testing.T) {
	for _, fs := range []string{"ext3", "ext4", "xfs", "btrfs"} {
		t.Run(fs, func(t *testing.T) {
			dev := loopDevice(t, 512<<20)
			run(t, "mkfs."+fs, "-q", dev)
			dir := mountDevice(t, dev, fs)
			want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
			must.Succeed(t, os.WriteFile(filepath.Join(dir, "file"), want, 0o600))
			run(t, "umount", dir)
			run(t, "mount", "-t", fs, dev, dir)
			got, err := os.ReadFile(filepath.Join(dir, "file"))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("read back %d bytes (%v), want the %d written", len(got), err, len(want))
			}
		})
	}
	wantNoStorageErrors(t)
}

// Growing ext4 in use needs CAP_SYS_RESOURCE, which the machine may lack.
func TestExt4GrowsOnline(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	dev := loopDeviceOn(t, image, 512<<20)
	run(t, "mkfs.ext4", "-q", "-b", "4096", dev)
	dir := mountDevice(t, dev, "ext4")
	before := countBlocks(t, dir)
	must.Succeed(t, os.Truncate(image, 2<<30))
	run(t, "losetup", "-c", dev)
	run(t, "resize2fs", dev)
	if after := countBlocks(t, dir); after < 3*before {
		t.Errorf("got %d blocks at four times the size, want %d at least", after, 3*before)
	}
	wantNoStorageErrors(t)
}

func TestLUKS2EncryptsTheDevice(t *testing.T) {
	dev := loopDevice(t, 64<<20)
	key := filepath.Join(t.TempDir(), "key")
	must.Succeed(t, os.WriteFile(key, []byte("a secret of a test"), 0o600))
	run(t, "cryptsetup", "luksFormat", "-q", "--type=luks2", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", dev, key)
	run(t, "cryptsetup", "open", "--key-file", key, dev, "selftest")
	t.Cleanup(func() { run(t, "cryptsetup", "close", "selftest") })
	mapped := "/dev/mapper/selftest"
	run(t, "mkfs.ext4", "-q", mapped)
	dir := mountDevice(t, mapped, "ext4")
	plain := []byte("plain text of a test")
	must.Succeed(t, os.WriteFile(filepath.Join(dir, "file"), plain, 0o600))
	run(t, "sync")
	if n := strings.TrimSpace(run(t, "sh", "-c", "grep -c '"+string(plain)+"' "+dev+" || true")); n != "0" {
		t.Errorf("got the plain text on the device %s times, want 0", n)
	}
	wantNoStorageErrors(t)
}

func TestModulesLoadOnDemandAndByName(t *testing.T) {
	// The kernel calls modprobe itself.
	dir := t.TempDir()
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		must.Succeed(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	data := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
	if err := unix.Mount("overlay", dir+"/merged", "overlay", 0, data); err != nil {
		t.Errorf("mount overlay: %v", err)
	} else if err := unix.Unmount(dir+"/merged", 0); err != nil {
		t.Error(err)
	}
	// A program calls modprobe.
	run(t, "modprobe", "nbd")
	if _, err := os.Stat("/dev/nbd0"); err != nil {
		t.Error(err)
	}
}

func TestStorageErrorsAreFound(t *testing.T) {
	const line = "EXT4-fs error (device loop9): a_test: as asked"
	logToKernel(t, "<3>"+line)
	log := must.Value(guest.KernelLog())(t)
	if found := guest.StorageErrors(log); len(found) != 1 || !strings.HasSuffix(found[0], line) {
		t.Errorf("got the lines %q, want the one that was logged", found)
	}
	if !strings.Contains(log, "Linux version") {
		t.Error("the log does not contain the kernel's first line")
	}
}

// wantNoStorageErrors fails the test for each storage error in the kernel's log
// that no test has put there.
func wantNoStorageErrors(t *testing.T) {
	t.Helper()
	log := must.Value(guest.KernelLog())(t)
	for _, line := range guest.StorageErrors(log) {
		if !strings.Contains(line, "as asked") {
			t.Errorf("kernel: %s", line)
		}
	}
}

// loopDevice returns a loop device of size bytes, until the end of the test.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	return loopDeviceOn(t, filepath.Join(t.TempDir(), "image"), size)
}

// loopDeviceOn is loopDevice with the path of the file.
func loopDeviceOn(t *testing.T, image string, size int64) string {
	t.Helper()
	must.Succeed(t, os.WriteFile(image, nil, 0o600))
	must.Succeed(t, os.Truncate(image, size))
	dev := strings.TrimSpace(run(t, "losetup", "-f", "--show", image))
	t.Cleanup(func() { run(t, "losetup", "-d", dev) })
	return dev
}

// mountDevice mounts the device and returns the mount point, until the end of the
// test.
func mountDevice(t *testing.T, dev, fs string) string {
	t.Helper()
	dir := t.TempDir()
	run(t, "mount", "-t", fs, dev, dir)
	t.Cleanup(func() { run(t, "umount", dir) })
	return dir
}

// countBlocks returns the number of blocks of the filesystem at dir.
func countBlocks(t *testing.T, dir string) uint64 {
	t.Helper()
	var st unix.Statfs_t
	must.Succeed(t, unix.Statfs(dir, &st))
	return st.Blocks
}

// run runs a program and returns its standard output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	// Not with the test's context, which has ended when cleanups run.
	cmd := exec.Command(name, args...) //nolint:forbidigo,noctx // the guest's timeout bounds it
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v: %s%s", cmd, err, out.Bytes(), errOut.Bytes())
	}
	return out.String()
}
