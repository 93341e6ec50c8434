package filesystem

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// loopDisk is a loop device on a sparse file. The tests that use it run on the real kernel
// and need root; they skip what the kernel or the process lacks.
type loopDisk struct {
	file, device string
}

func command(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	if path, err := exec.LookPath(name); err == nil {
		cmd.Path, cmd.Err = path, nil
	} else if path, err := exec.LookPath("/usr/sbin/" + name); err == nil {
		cmd.Path, cmd.Err = path, nil
	}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// mustRun runs a program and fails the test when the program fails.
func mustRun(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
	defer cancel()
	out, err := command(ctx, name, args...)
	if err != nil {
		t.Fatalf("run %s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// newDisk attaches a loop device of this size until the test ends.
func newDisk(t *testing.T, size volume.Size) loopDisk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loop devices and mounts")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("needs loop devices: ", err)
	}
	return attachLoop(t, filepath.Join(dirForSize(t, size), "disk"), size)
}

// newDiskOnTmpfs attaches a loop device whose file lies on a tmpfs of this size, which can
// be filled.
func newDiskOnTmpfs(t *testing.T, storage volume.Size) loopDisk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loop devices and mounts")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+strconv.FormatInt(storage.Bytes(), 10)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return attachLoop(t, filepath.Join(dir, "disk"), storage)
}

// open opens the device until the test ends.
func (d loopDisk) open(t *testing.T) *blockdev.Handle {
	t.Helper()
	sys := blockdev.New()
	dev, err := sys.ByPath(d.device)
	if err != nil {
		t.Fatal(err)
	}
	h, err := sys.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeQuietly(h) })
	return h
}

// openExclusively opens the device for writing, as another program would.
func (d loopDisk) openExclusively(t *testing.T) blockdev.Writer {
	t.Helper()
	w, err := d.open(t).OpenWriter()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func attachLoop(t *testing.T, file string, size volume.Size) loopDisk {
	t.Helper()
	d := loopDisk{file: file}
	d.resizeFile(t, size)
	d.device = attachFreeLoop(t, d.file)
	t.Cleanup(func() { mustRun(t, "losetup", "-d", d.device) })
	return d
}

// attachFreeLoop attaches the file to a free loop device. losetup fails when another
// program takes that device and releases it in between.
func attachFreeLoop(t *testing.T, file string, options ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		out, err := command(ctx, "losetup", append(append([]string{"-f", "--show"}, options...), file)...)
		if err == nil {
			return out
		}
		if !strings.Contains(out, "No such device or address") || ctx.Err() != nil {
			t.Fatalf("losetup of %s: %v: %s", file, err, out)
		}
	}
}

// dirForSize returns a directory on a filesystem that can hold a sparse file of this size:
// a file on ext4 with 4 KiB blocks ends at 16 TiB, one on tmpfs does not.
func dirForSize(t *testing.T, size volume.Size) string {
	t.Helper()
	if size < 8*volume.TiB {
		return t.TempDir()
	}
	for _, base := range []string{os.TempDir(), "/dev/shm"} {
		var st unix.Statfs_t
		if unix.Statfs(base, &st) == nil && st.Type == unix.TMPFS_MAGIC {
			dir, err := os.MkdirTemp(base, "disk") //nolint:usetesting // not every base is the one of t.TempDir
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			return dir
		}
	}
	t.Skip("needs a tmpfs for a sparse file of ", size)
	return ""
}

func (d loopDisk) resizeFile(t *testing.T, size volume.Size) {
	t.Helper()
	f, err := os.OpenFile(d.file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size.Bytes()), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// resize changes the size of the file and of the device, as a storage system does.
func (d loopDisk) resize(t *testing.T, size volume.Size) {
	t.Helper()
	d.resizeFile(t, size)
	mustRun(t, "losetup", "-c", d.device)
}

// mkfs makes a filesystem with features that Format does not choose.
func (d loopDisk) mkfs(t *testing.T, fs Type, options ...string) {
	t.Helper()
	args := append([]string{"-q"}, options...)
	if fs.IsExt() {
		args = append(args, "-F")
	}
	mustRun(t, "mkfs."+string(fs), append(args, d.device)...)
}

// mount mounts the disk until the test ends, and returns the mount point.
func (d loopDisk) mount(t *testing.T, s *System, fs Type, flags ...string) string {
	t.Helper()
	target := t.TempDir()
	d.mountAt(t, s, fs, target, flags...)
	return target
}

func (d loopDisk) mountAt(t *testing.T, s *System, fs Type, target string, flags ...string) {
	t.Helper()
	skipWithoutFilesystem(t, fs)
	if err := s.Mount(t.Context(), MountRequest{Device: d.open(t), Target: target, Type: fs, Options: flags}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unmount(t, s, target)
		for unix.Unmount(target, unix.MNT_DETACH) == nil {
			t.Error("Unmount did not remove the mount at ", target)
		}
	})
}

func unmount(t *testing.T, s *System, target string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	for {
		m, mounted, err := s.FindMount(target)
		if err == nil && mounted {
			err = s.Unmount(ctx, m)
		}
		if err != nil {
			t.Error(err)
		}
		if err != nil || !mounted {
			return
		}
	}
}

// newMountedDisk returns a loop device of this size with a mounted filesystem.
func newMountedDisk(t *testing.T, fs Type, size volume.Size) (s *System, d loopDisk, target string) {
	t.Helper()
	s, d = New(Options{}), newDisk(t, size)
	d.mkfs(t, fs)
	return s, d, d.mount(t, s, fs)
}

// triggerError makes the kernel find an error in the mounted ext4; see awaitErrors.
func (d loopDisk) triggerError(t *testing.T) {
	t.Helper()
	trigger := filepath.Join("/sys/fs/ext4", filepath.Base(d.device), "trigger_fs_error")
	if err := os.WriteFile(trigger, []byte("test"), 0o200); err != nil {
		t.Fatal(err)
	}
}

// skipWithoutFilesystem skips the test if the kernel does not know the filesystem.
func skipWithoutFilesystem(t *testing.T, fs Type) {
	t.Helper()
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(known, []byte("\t"+string(fs)+"\n")) {
		t.Skip("this kernel lacks ", fs)
	}
}

func hasResourceCapability(t *testing.T) bool {
	t.Helper()
	caps, err := linuxKernel{}.capabilities()
	if err != nil {
		t.Fatal(err)
	}
	return caps&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// skipWithoutGrowth skips the test if this process may not grow the filesystem online.
func skipWithoutGrowth(t *testing.T, fs Type) {
	t.Helper()
	skipWithoutFilesystem(t, fs)
	if fs.IsExt() && !hasResourceCapability(t) {
		t.Skip("this process lacks CAP_SYS_RESOURCE: ext cannot grow online; run the test binary in a guest")
	}
}

// fsck fails the test unless the unmounted filesystem is clean.
func (d loopDisk) fsck(t *testing.T, fs Type) {
	t.Helper()
	switch {
	case fs.IsExt():
		mustRun(t, "e2fsck", "-f", "-n", d.device)
	case fs == TypeXFS:
		mustRun(t, "xfs_repair", "-n", d.device)
	default:
		mustRun(t, "btrfs", "check", d.device)
	}
}

// grow grows the filesystem, and fails the test on an error.
func (d loopDisk) grow(t *testing.T, s *System, target string) Growth {
	t.Helper()
	g, err := s.Grow(t.Context(), GrowRequest{MountPoint: target, Device: d.open(t)})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// writer writes files with known checksums until it is stopped.
type writer struct {
	dir       string
	cancel    context.CancelFunc
	done      sync.WaitGroup
	written   atomic.Int64
	checksums [][32]byte
	err       error
}

func startWriter(t *testing.T, dir string) *writer {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &writer{dir: dir, cancel: cancel}
	w.done.Go(func() {
		for ctx.Err() == nil && w.err == nil {
			if w.err = w.write(); w.err == nil {
				w.written.Add(1)
			}
		}
	})
	t.Cleanup(func() { cancel(); w.done.Wait() })
	return w
}

// awaitMore returns once the writer has written some more files.
func (w *writer) awaitMore(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for goal := w.written.Load() + 5; w.written.Load() < goal; {
		if err := operation.Sleep(ctx, time.Millisecond); err != nil {
			t.Fatal("the writer has stopped: ", err)
		}
	}
}

func (w *writer) name(i int) string { return filepath.Join(w.dir, fmt.Sprintf("file-%04d", i)) }

func (w *writer) write() error {
	data := make([]byte, 32<<10+len(w.checksums))
	if _, err := rand.Read(data); err != nil {
		return err
	}
	if err := writeSynced(w.name(len(w.checksums)), data); err != nil {
		return err
	}
	w.checksums = append(w.checksums, sha256.Sum256(data))
	return nil
}

// stop ends the writing and verifies all files.
func (w *writer) stop(t *testing.T) {
	t.Helper()
	w.cancel()
	w.done.Wait()
	if w.err != nil {
		t.Fatal("write during the growth: ", w.err)
	}
	if len(w.checksums) == 0 {
		t.Fatal("the writer wrote nothing")
	}
	w.verify(t)
}

func (w *writer) verify(t *testing.T) {
	t.Helper()
	for i, want := range w.checksums {
		f, err := os.Open(w.name(i))
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(h.Sum(nil), want[:]) {
			t.Fatalf("%s: the data read back differs from the data written", w.name(i))
		}
	}
}

// writeSynced writes a file and returns once the device has it.
func writeSynced(path string, data []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
