package luks

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// The fixtures of the tests on the real kernel. They need root and loop devices; mappings need
// device mapper, which the guest kernel has.

const passphrase = "correct horse battery staple"

const diskSize = 64 * volume.MiB

// disk is a loop device on a sparse file, with the System under test.
type disk struct {
	*System
	blockdev.Device
	t      *testing.T
	file   string
	marker string
	id     string
	runs   *recorder
	log    *bytes.Buffer
}

// newDisk attaches a loop device until the test ends.
func newDisk(t *testing.T) *disk { t.Helper(); return newDiskOf(t, diskSize) }

func newDiskOf(t *testing.T, size volume.Size) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loop devices")
	}
	if _, err := exec.LookPath("cryptsetup"); err != nil {
		t.Skip("needs cryptsetup: ", err)
	}
	dir := t.TempDir()
	d := &disk{
		t: t, file: filepath.Join(dir, "disk"), marker: filepath.Join(dir, "marker"), id: "test-" + volumeName(t),
		runs: &recorder{}, log: &bytes.Buffer{},
	}
	d.truncate(size)
	path := freeLoop(t, d.file)
	t.Cleanup(func() { mustRun(t, "losetup", "-d", path) })
	var err error
	if d.Device, err = blockdev.New().ByPath(path); err != nil {
		t.Fatal(err)
	}
	d.System = New(Options{Log: slog.New(slog.NewTextHandler(d.log, nil))})
	d.run, d.busyTimeout = d.runs.run, 200*time.Millisecond
	t.Cleanup(func() {
		for _, secret := range []string{passphrase, "battery"} {
			if strings.Contains(d.log.String()+d.runs.arguments(), secret) {
				t.Errorf("the passphrase is in the log or among the arguments")
			}
		}
	})
	return d
}

// newMappable is newDisk, on a kernel with device mapper only.
func newMappable(t *testing.T) *disk { t.Helper(); return newMappableOf(t, diskSize) }

func newMappableOf(t *testing.T, size volume.Size) *disk {
	t.Helper()
	if !hasMapper() {
		t.Skip("needs a kernel with device mapper: make test-guest has one")
	}
	d := newDiskOf(t, size)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := d.Close(ctx, d.id); err != nil {
			t.Error(err)
		}
	})
	return d
}

func hasMapper() bool { return New(Options{}).mapper.isAvailable() }

// newOpen returns a formatted disk with its open mapping.
func newOpen(t *testing.T) (*disk, Mapping) {
	t.Helper()
	d := newMappable(t)
	d.mustFormat()
	return d, d.mustOpen(false)
}

func (d *disk) truncate(size volume.Size) {
	d.t.Helper()
	f, err := os.OpenFile(d.file, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = errors.Join(f.Truncate(size.Bytes()), f.Close())
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// resize changes the size of the disk, as a storage system does.
func (d *disk) resize(size volume.Size) {
	d.t.Helper()
	d.truncate(size)
	mustRun(d.t, "losetup", "-c", d.Path)
}

func (d *disk) formatRequest() FormatRequest {
	return FormatRequest{Device: d.Device, Passphrase: []byte(passphrase), Marker: d.marker, Content: d.content}
}

// content probes the disk with blkid.
func (d *disk) content(ctx context.Context) (Content, error) {
	data, err := os.ReadFile(d.Path)
	if err != nil {
		return Content{}, err
	}
	if bytes.Count(data, []byte{0}) == len(data) {
		return Content{Blank: true}, nil
	}
	out, err := exec.CommandContext(ctx, "blkid", "-p", "-o", "value", "-s", "TYPE", d.Path).Output()
	return Content{Recognized: err == nil, Name: "unknown data " + strings.TrimSpace(string(out))}, nil
}

func (d *disk) mustFormat() Header {
	d.t.Helper()
	h, fresh, err := d.Format(d.t.Context(), d.formatRequest())
	if err != nil || !fresh || h.State != HeaderSound {
		d.t.Fatalf("format: %s, fresh %t, %v", h, fresh, err)
	}
	return h
}

func (d *disk) openRequest(readOnly bool) OpenRequest {
	return OpenRequest{ID: d.id, Device: d.Device, Passphrase: []byte(passphrase), ReadOnly: readOnly}
}

func (d *disk) mustOpen(readOnly bool) Mapping {
	d.t.Helper()
	m, err := d.Open(d.t.Context(), d.openRequest(readOnly))
	if err != nil {
		d.t.Fatal(err)
	}
	return m
}

func (d *disk) write(at int64, data []byte) {
	d.t.Helper()
	f, err := os.OpenFile(d.Path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(data, at)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// content256 returns the SHA-256 of the disk's content.
func (d *disk) fingerprint() string {
	d.t.Helper()
	return mustRun(d.t, "sha256sum", d.file)
}

// recorder is the real Runner. It records the arguments and, by default, makes key slots that
// are cheap to unlock: an emulated CPU needs a second for each.
type recorder struct {
	mu        sync.Mutex
	ran       []string
	expensive bool
	wrap      func(cryptsetupCommand) []string // another program around cryptsetup
}

func (r *recorder) run(ctx context.Context, c cryptsetupCommand) (string, error) {
	r.mu.Lock()
	r.ran = append(r.ran, strings.Join(c.Args, " "))
	r.mu.Unlock()
	if i := slices.Index(c.Args, "--pbkdf-memory"); i >= 0 && !r.expensive {
		c.Args = slices.Clone(c.Args)
		c.Args[i+1] = "32"
	}
	if r.wrap == nil {
		return runCryptsetup(ctx, c)
	}
	return runProgram(ctx, c, r.wrap(c))
}

func (r *recorder) arguments() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.ran, "\n")
}

func volumeName(t *testing.T) string {
	t.Helper()
	return strings.NewReplacer("/", "-", "#", "-", " ", "-").Replace(t.Name())
}

// freeLoop attaches the file to a free loop device. losetup fails if another program takes
// that device meanwhile.
func freeLoop(t *testing.T, file string) string {
	t.Helper()
	for {
		out, err := command(t, "losetup", "-f", "--show", file)
		if err == nil {
			return out
		}
		if !strings.Contains(out, "No such device or address") {
			t.Skipf("needs loop devices: %v: %s", err, out)
		}
	}
}

func command(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	// The test's own context has ended when cleanups run.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DM_DISABLE_UDEV=1")
	cmd.Stdin = strings.NewReader(passphrase)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func mustRun(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := command(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// wantError checks the kind and the words of an error, and that it does not contain the
// passphrase.
func wantError(t *testing.T, err error, kind volume.Kind, words ...string) {
	t.Helper()
	if err == nil || volume.KindOf(err) != kind {
		t.Errorf("got %v (kind %s), want kind %s", err, volume.KindOf(err), kind)
		return
	}
	for _, w := range append(words, "next step") {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q is missing in: %v", w, err)
		}
	}
	if strings.Contains(err.Error(), passphrase) {
		t.Errorf("the passphrase is in: %v", err)
	}
}

// mountMapping mounts the mapping until the test ends and returns the mount point.
func mountMapping(t *testing.T, m Mapping) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount(m.Device.Path, dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	return dir
}
