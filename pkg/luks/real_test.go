package luks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

// The helpers of the tests that run on the kernel at hand. They need root and
// loop devices, and mappings need device mapper, as a guest kernel has it.

const passphrase = "correct horse battery staple"

const diskSize = 64 * volume.MiB

// disk is a loop device on a sparse file, and the System under test.
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

// newDisk attaches a loop device, which goes with the test.
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
		t: t, file: filepath.Join(dir, "disk"), marker: filepath.Join(dir, "marker"), id: "test-" + volumeName(t), runs: &recorder{}, log: &bytes.Buffer{},
	}
	d.truncate(size)
	path := freeLoop(t, d.file)
	t.Cleanup(func() { mustRun(t, "losetup", "-d", path) })
	var err error
	if d.Device, err = blockdev.New().ByPath(path); err != nil {
		t.Fatal(err)
	}
	d.System = New(Options{Log: slog.New(slog.NewTextHandler(d.log, nil)), Run: d.runs.run})
	d.patience = 200 * time.Millisecond
	t.Cleanup(func() {
		for _, secret := range []string{passphrase, "battery"} {
			if strings.Contains(d.log.String()+d.runs.arguments(), secret) {
				t.Errorf("the passphrase is in the log or among the arguments")
			}
		}
	})
	return d
}

// newMappable is newDisk on a kernel with device mapper.
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

func hasMapper() bool { return New(Options{}).mapper.available() }

// newOpen is a formatted disk with its mapping.
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

// resize gives the disk another size, as a storage system would.
func (d *disk) resize(size volume.Size) {
	d.t.Helper()
	d.truncate(size)
	mustRun(d.t, "losetup", "-c", d.Path)
}

func (d *disk) formatRequest() FormatRequest {
	return FormatRequest{Device: d.Device, Passphrase: []byte(passphrase), Marker: d.marker, Content: d.content}
}

// content is what the first and last bytes tell, by the hand of blkid.
func (d *disk) content(ctx context.Context) (Content, error) {
	data, err := os.ReadFile(d.Path)
	if err != nil {
		return Content{}, err
	}
	if bytes.Count(data, []byte{0}) == len(data) {
		return Content{Blank: true}, nil
	}
	out, err := exec.CommandContext(ctx, "blkid", "-p", "-o", "value", "-s", "TYPE", d.Path).Output()
	return Content{Named: err == nil, Name: "unknown data " + strings.TrimSpace(string(out))}, nil
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

// content256 is a fingerprint of what the disk holds.
func (d *disk) fingerprint() string {
	d.t.Helper()
	return mustRun(d.t, "sha256sum", d.file)
}

// recorder is the real runner; it remembers the arguments, and makes the key
// slots cheap unless told otherwise: a guest without hardware takes a second
// for each.
type recorder struct {
	mu        sync.Mutex
	ran       []string
	expensive bool
	wrap      func(Command) []string // another program around cryptsetup
}

func (r *recorder) run(ctx context.Context, c Command) (string, error) {
	r.mu.Lock()
	r.ran = append(r.ran, strings.Join(c.Args, " "))
	r.mu.Unlock()
	if i := slices.Index(c.Args, "--pbkdf-memory"); i >= 0 && !r.expensive {
		c.Args = slices.Clone(c.Args)
		c.Args[i+1] = "32"
	}
	if r.wrap == nil {
		return execute(ctx, c)
	}
	return executeProgram(ctx, c, r.wrap(c))
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

// freeLoop gives a free loop device the file. losetup fails when another
// program takes that very device meanwhile and lets it go at once.
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

// wantError checks the kind and the words of an error, and that it does not
// have the passphrase.
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

// mounted mounts the mapping for the time of the test, and returns where.
func mounted(t *testing.T, m Mapping) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount(m.Device.Path, dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	return dir
}

// From a blank disk to a filesystem that has grown with its disk, without the
// passphrase, and whose data are there when the mapping was closed and opened.
func TestRealLifeOfAMapping(t *testing.T) {
	d := newMappable(t)
	d.runs.expensive = true
	ctx := t.Context()
	if _, ok, err := d.Find(ctx, d.id); ok || err != nil {
		t.Fatalf("before it was made: %t, %v", ok, err)
	}
	h := d.mustFormat()
	if h.Offset != DataOffset || h.Memory != 64*volume.MiB || h.Problem != "" {
		t.Errorf("header %+v", h)
	}
	m := d.mustOpen(false)
	if m.Size != diskSize-DataOffset || m.Offset != DataOffset || m.Disk != d.Device || m.Device.Kind != blockdev.KindCrypt || m.ReadOnly {
		t.Errorf("mapping %+v on %s", m, d.Device)
	}
	blocks := blockdev.New()
	if layers, err := blocks.Stack(m.Device); err != nil || !slices.Equal(layers, []blockdev.Device{m.Device, d.Device}) {
		t.Errorf("layers %v, %v", layers, err)
	}
	if dump := mustRun(t, "dmsetup", "table", m.Name); strings.Contains(dump, "logon") || strings.Contains(dump, "allow_discards") {
		t.Errorf("table %s", dump)
	}
	mustRun(t, "mkfs.ext4", "-q", m.Device.Path)
	dir := mounted(t, m)
	if err := os.WriteFile(filepath.Join(dir, "data"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.resize(96 * volume.MiB)
	for range 2 { // the second time there is nothing to do
		if size, err := d.Grow(ctx, m.Device, nil); err != nil || size != 96*volume.MiB-DataOffset {
			t.Fatalf("grown to %s, %v", size, err)
		}
	}
	mustRun(t, "resize2fs", m.Device.Path)
	found, ok, err := d.Find(ctx, d.id)
	if err != nil || !ok || found.Size != 96*volume.MiB-DataOffset || found.Device != m.Device {
		t.Errorf("found %+v, %t, %v", found, ok, err)
	}
	wantError(t, d.Close(ctx, d.id), volume.KindPrecondition, m.Name, "mounted at "+dir)
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Close(ctx, d.id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat("/dev/mapper/" + m.Name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its device node is left: %v", err)
	}
	dir = mounted(t, d.mustOpen(false))
	if data, err := os.ReadFile(filepath.Join(dir, "data")); string(data) != "precious" || err != nil {
		t.Errorf("read %q, %v", data, err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
}

// A restarted node plugin finds the mapping with and without a passphrase, and
// opens nothing twice.
func TestRealOpenAgain(t *testing.T) {
	d, m := newOpen(t)
	req := d.openRequest(false)
	req.Passphrase = nil
	again, err := d.Open(t.Context(), req)
	if err != nil || again.Device != m.Device {
		t.Errorf("got %+v, %v; want %+v", again, err, m)
	}
	if n := strings.Count(d.runs.arguments(), "open "); n != 1 {
		t.Errorf("opened %d times", n)
	}
}

func TestRealPassphrases(t *testing.T) {
	d := newMappable(t)
	ctx := t.Context()
	req := d.formatRequest()
	req.Passphrase = nil
	_, _, err := d.Format(ctx, req)
	wantError(t, err, volume.KindInvalid, "passphrase", "node-stage-secret-name")
	d.mustFormat()
	open := d.openRequest(false)
	open.Passphrase = nil
	_, err = d.Open(ctx, open)
	wantError(t, err, volume.KindInvalid, "passphrase", "node-stage-secret-name")
	for _, wrong := range []string{"wrong", passphrase + "\n", passphrase[:5]} {
		open.Passphrase = []byte(wrong)
		_, err = d.Open(ctx, open)
		wantError(t, err, volume.KindPrecondition, "secret", d.Path)
		if _, ok, err := d.Find(ctx, d.id); ok || err != nil {
			t.Errorf("a mapping after a wrong passphrase: %t, %v", ok, err)
		}
	}
	// Each byte counts, also a line feed and a zero.
	odd := newMappable(t)
	odd.id += "-odd"
	format, reopen := odd.formatRequest(), odd.openRequest(false)
	format.Passphrase = []byte("line\nand\x00zero")
	if _, _, err := odd.Format(ctx, format); err != nil {
		t.Fatal(err)
	}
	reopen.Passphrase = []byte("line")
	_, err = odd.Open(ctx, reopen)
	wantError(t, err, volume.KindPrecondition, "secret")
	reopen.Passphrase = format.Passphrase
	if _, err := odd.Open(ctx, reopen); err != nil {
		t.Error(err)
	}
	if err := odd.Close(ctx, odd.id); err != nil {
		t.Error(err)
	}
}

// The longest names, and ids that cannot be one.
func TestRealNames(t *testing.T) {
	for _, id := range []string{strings.Repeat("a", maxVerbatim), strings.Repeat("a", maxVerbatim+1), "../../etc", "with space", "ü", "a.b_c-D"} {
		d := newMappable(t)
		d.id = id
		d.mustFormat()
		m := d.mustOpen(false)
		if found, ok, err := d.Find(t.Context(), id); err != nil || !ok || found.Name != m.Name {
			t.Errorf("%q: %+v, %t, %v", id, found, ok, err)
		}
		if err := d.Close(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}

func TestRealReadOnly(t *testing.T) {
	d := newMappable(t)
	d.mustFormat()
	m := d.mustOpen(true)
	if ro, err := blockdev.New().ReadOnly(m.Device); err != nil || !ro || !m.ReadOnly {
		t.Fatalf("mapping %+v, kernel says read-only %t, %v", m, ro, err)
	}
	held, err := os.Open(m.Device.Path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Open(t.Context(), d.openRequest(false))
	wantError(t, err, volume.KindDeadline, "read-only=true", m.Name)
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if m := d.mustOpen(false); m.ReadOnly {
		t.Errorf("nobody used it: %+v", m)
	}
	// A disk that refuses writes has no mapping that takes them.
	if err := d.Close(t.Context(), d.id); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "blockdev", "--setro", d.Path)
	t.Cleanup(func() { mustRun(t, "blockdev", "--setrw", d.Path) })
	_, err = d.Open(t.Context(), d.openRequest(false))
	wantError(t, err, volume.KindInternal, "read-only is true")
	if _, ok, err := d.Find(t.Context(), d.id); ok || err != nil {
		t.Errorf("a mapping that is not what was asked for stays open: %t, %v", ok, err)
	}
	if m := d.mustOpen(true); !m.ReadOnly {
		t.Errorf("got %+v", m)
	}
}

func TestRealCloseOfABusyMapping(t *testing.T) {
	d, m := newOpen(t)
	ctx := t.Context()
	held, err := os.Open(m.Device.Path)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, d.Close(ctx, d.id), volume.KindDeadline, m.Name, "open count 1", "fuser")
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}

	// A device node in a pod does not keep it open, but it is in use.
	target := filepath.Join(t.TempDir(), "volume")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(m.Device.Path, target, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	wantError(t, d.Close(ctx, d.id), volume.KindPrecondition, "raw device at "+target)
	if err := unix.Unmount(target, 0); err != nil {
		t.Fatal(err)
	}

	above := "above-" + d.id
	mustRun(t, "dmsetup", "create", above, "--table", "0 8 linear "+m.Device.Path+" 0")
	wantError(t, d.Close(ctx, d.id), volume.KindPrecondition, "below /dev/dm-")
	mustRun(t, "dmsetup", "remove", above)

	// udev has it open for a moment.
	d.patience = time.Minute
	if held, err = os.Open(m.Device.Path); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = held.Close() })
	if err := d.Close(ctx, d.id); err != nil {
		t.Error(err)
	}
}

// What has the volume's name and is not the volume's is left alone.
func TestRealOtherDeviceUnderTheName(t *testing.T) {
	ctx := t.Context()
	t.Run("another disk", func(t *testing.T) {
		d, m := newOpen(t)
		other := newMappable(t)
		other.id = d.id
		other.mustFormat()
		_, err := other.Open(ctx, other.openRequest(false))
		wantError(t, err, volume.KindPrecondition, d.Path, other.Path, m.Name)
	})
	t.Run("a clone with the same header", func(t *testing.T) {
		d, m := newOpen(t)
		clone := newMappable(t)
		mustRun(t, "cp", d.file, clone.file)
		req := clone.openRequest(false)
		req.ID = d.id
		_, err := clone.Open(ctx, req)
		wantError(t, err, volume.KindPrecondition, d.Path, clone.Path, m.Name)
		clone.id += "-clone"
		if c := clone.mustOpen(false); c.Device == m.Device || c.Disk != clone.Device {
			t.Errorf("clone %+v", c)
		}
		if err := clone.Close(ctx, clone.id); err != nil {
			t.Error(err)
		}
	})
	t.Run("another header", func(t *testing.T) {
		d, m := newOpen(t)
		mustRun(t, "cryptsetup", "luksUUID", "--batch-mode", "--uuid", newUUID(), d.Path)
		_, err := d.Open(ctx, d.openRequest(false))
		wantError(t, err, volume.KindPrecondition, m.UUID, "another header")
	})
	t.Run("no mapping at all", func(t *testing.T) {
		d := newMappable(t)
		d.mustFormat()
		name := MappingName(d.id)
		mustRun(t, "dmsetup", "create", name, "--table", "0 8 linear "+d.Path+" 0")
		_, err := d.Open(ctx, d.openRequest(false))
		wantError(t, err, volume.KindPrecondition, name, "left alone")
		_, _, err = d.Find(ctx, d.id)
		wantError(t, err, volume.KindPrecondition, name, "left alone")
		wantError(t, d.Close(ctx, d.id), volume.KindPrecondition, name, "left alone")
		mustRun(t, "dmsetup", "remove", name)
	})
}

// A mapping that is suspended makes whatever touches it hang.
func TestRealSuspendedMapping(t *testing.T) {
	d, m := newOpen(t)
	ctx := t.Context()
	for name, use := range map[string]func() error{
		"Open": func() error { _, err := d.Open(ctx, d.openRequest(false)); return err },
		"Find": func() error { _, _, err := d.Find(ctx, d.id); return err },
		"Grow": func() error { _, err := d.Grow(ctx, m.Device, nil); return err },
	} {
		mustRun(t, "dmsetup", "suspend", m.Name)
		if err := use(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if state := mustRun(t, "dmsetup", "info", "-c", "--noheadings", "-o", "suspended", m.Name); state != "Active" {
			t.Errorf("after %s it is %s", name, state)
			mustRun(t, "dmsetup", "resume", m.Name)
		}
	}
	mustRun(t, "dmsetup", "suspend", m.Name)
	if err := d.Close(ctx, d.id); err != nil {
		t.Error(err)
	}
}

// A cryptsetup that was killed has created the mapping and given it no table.
func TestRealMappingWithoutATable(t *testing.T) {
	d := newMappable(t)
	h := d.mustFormat()
	name := MappingName(d.id)
	mustRun(t, "dmsetup", "create", name, "--notable", "--uuid", dmUUID(h.UUID, name))
	if _, ok, err := d.Find(t.Context(), d.id); ok || err != nil {
		t.Errorf("found: %t, %v", ok, err)
	}
	d.mustOpen(false)
}

// Mappings that an administrator made grow as well.
func TestRealGrowthOfForeignMappings(t *testing.T) {
	for name, c := range map[string]struct {
		format []string
		open   []string
		keyed  bool
	}{
		"LUKS2 keyring":          {format: []string{"--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}, keyed: true},
		"LUKS2 key in the table": {format: []string{"--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}, open: []string{"--disable-keyring"}},
		"LUKS2 large sectors":    {format: []string{"--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--sector-size", "4096"}, keyed: true},
		"LUKS1":                  {format: []string{"--type", "luks1", "--pbkdf-force-iterations", "1000"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newMappable(t)
			ctx := t.Context()
			by := fmt.Sprintf("by-hand-%d", os.Getpid())
			mustRun(t, "cryptsetup", append([]string{"luksFormat", "--batch-mode", "--key-file", "-", d.Path}, c.format...)...)
			mustRun(t, "cryptsetup", append([]string{"open", "--key-file", "-", d.Path, by}, c.open...)...)
			t.Cleanup(func() { mustRun(t, "cryptsetup", "close", by) })
			m, err := blockdev.New().ByPath("/dev/mapper/" + by)
			if err != nil {
				t.Fatal(err)
			}
			before, err := d.devices.Size(m)
			if err != nil {
				t.Fatal(err)
			}
			d.resize(96*volume.MiB + 512)
			key := []byte(nil)
			if c.keyed {
				_, err := d.Grow(ctx, m, nil)
				wantError(t, err, volume.KindPrecondition, "passphrase", "node-expand-secret")
				_, err = d.Grow(ctx, m, []byte("wrong"))
				wantError(t, err, volume.KindPrecondition, "passphrase")
				key = []byte(passphrase)
			}
			want := before + 32*volume.MiB
			if !strings.Contains(name, "large") {
				want += 512
			}
			for range 2 {
				if size, err := d.Grow(ctx, m, key); err != nil || size != want {
					t.Fatalf("grown to %s, %v; want %s", size, err, want)
				}
			}
		})
	}
	d := newDisk(t)
	_, err := d.Grow(t.Context(), d.Device, nil)
	if volume.KindOf(err) != volume.KindPrecondition || err == nil {
		t.Errorf("a disk: %v", err)
	}
}

// A kernel without device mapper has no mappings, which is no error: volumes
// without encryption are unstaged there too.
func TestRealKernelWithoutDeviceMapper(t *testing.T) {
	if hasMapper() {
		t.Skip("needs a kernel without device mapper")
	}
	d := newDiskOf(t, crashSize)
	if _, ok, err := d.Find(t.Context(), d.id); ok || err != nil {
		t.Errorf("found %t, %v", ok, err)
	}
	if err := d.Close(t.Context(), d.id); err != nil {
		t.Error(err)
	}
	d.mustFormat()
	_, err := d.Open(t.Context(), d.openRequest(false))
	wantError(t, err, volume.KindInternal, "no device mapper", "dm-crypt")
}
