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
)

func TestFilesystemsOnLoopDevices(t *testing.T) {
	for _, fs := range []string{"ext3", "ext4", "xfs", "btrfs"} {
		t.Run(fs, func(t *testing.T) {
			dev := loopDevice(t, 512<<20)
			run(t, "mkfs."+fs, "-q", dev)
			dir := mountOn(t, dev, fs)
			want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
			if err := os.WriteFile(filepath.Join(dir, "file"), want, 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, "umount", dir)
			run(t, "mount", "-t", fs, dev, dir)
			got, err := os.ReadFile(filepath.Join(dir, "file"))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("read back %d bytes (%v), want the %d written", len(got), err, len(want))
			}
		})
	}
	noStorageErrors(t)
}

// The reason for it all: where this fails on the machine, it works here.
func TestExt4GrowsOnline(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	dev := loopDeviceOn(t, image, 512<<20)
	run(t, "mkfs.ext4", "-q", "-b", "4096", dev)
	dir := mountOn(t, dev, "ext4")
	before := blocks(t, dir)
	if err := os.Truncate(image, 2<<30); err != nil {
		t.Fatal(err)
	}
	run(t, "losetup", "-c", dev)
	run(t, "resize2fs", dev)
	if after := blocks(t, dir); after < 3*before {
		t.Errorf("%d blocks before, %d after growing to four times the size", before, after)
	}
	noStorageErrors(t)
}

func TestLUKS2(t *testing.T) {
	dev := loopDevice(t, 64<<20)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("a secret of a test"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "cryptsetup", "luksFormat", "-q", "--type=luks2", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", dev, key)
	run(t, "cryptsetup", "open", "--key-file", key, dev, "selftest")
	t.Cleanup(func() { run(t, "cryptsetup", "close", "selftest") })
	mapped := "/dev/mapper/selftest"
	run(t, "mkfs.ext4", "-q", mapped)
	dir := mountOn(t, mapped, "ext4")
	plain := []byte("plain text of a test")
	if err := os.WriteFile(filepath.Join(dir, "file"), plain, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "sync")
	if n := strings.TrimSpace(run(t, "sh", "-c", "grep -c '"+string(plain)+"' "+dev+" || true")); n != "0" {
		t.Errorf("the plain text is on the device %s times", n)
	}
	noStorageErrors(t)
}

func TestModulesLoadOnDemandAndByName(t *testing.T) {
	// By the kernel itself, through its own call of modprobe.
	dir := t.TempDir()
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
	if err := unix.Mount("overlay", dir+"/merged", "overlay", 0, data); err != nil {
		t.Errorf("mount overlay: %v", err)
	} else if err := unix.Unmount(dir+"/merged", 0); err != nil {
		t.Error(err)
	}
	// By a program.
	run(t, "modprobe", "nbd")
	if _, err := os.Stat("/dev/nbd0"); err != nil {
		t.Error(err)
	}
}

func TestStorageErrorsAreSeen(t *testing.T) {
	const line = "EXT4-fs error (device loop9): a_test: as asked"
	logToKernel(t, "<3>"+line)
	log, err := guest.KernelLog()
	if err != nil {
		t.Fatal(err)
	}
	if found := guest.StorageErrors(log); len(found) != 1 || !strings.HasSuffix(found[0], line) {
		t.Errorf("found %q, want the line logged", found)
	}
	if !strings.Contains(log, "Linux version") {
		t.Error("the log does not begin at boot")
	}
}

func noStorageErrors(t *testing.T) {
	t.Helper()
	log, err := guest.KernelLog()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range guest.StorageErrors(log) {
		if !strings.Contains(line, "as asked") {
			t.Errorf("kernel: %s", line)
		}
	}
}

func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	return loopDeviceOn(t, filepath.Join(t.TempDir(), "image"), size)
}

func loopDeviceOn(t *testing.T, image string, size int64) string {
	t.Helper()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	dev := strings.TrimSpace(run(t, "losetup", "-f", "--show", image))
	t.Cleanup(func() { run(t, "losetup", "-d", dev) })
	return dev
}

func mountOn(t *testing.T, dev, fs string) string {
	t.Helper()
	dir := t.TempDir()
	run(t, "mount", "-t", fs, dev, dir)
	t.Cleanup(func() { run(t, "umount", dir) })
	return dir
}

func blocks(t *testing.T, dir string) uint64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	// Not the test's context: it has ended when cleanups run.
	cmd := exec.Command(name, args...) //nolint:forbidigo,noctx // bounded by the guest's life
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v: %s%s", cmd, err, out.Bytes(), errOut.Bytes())
	}
	return out.String()
}
