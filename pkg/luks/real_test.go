package luks

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/uuid"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// A blank disk is formatted and opened, its filesystem grows with the disk without the
// passphrase, and the data are there after the mapping was closed and opened again.
func TestRealFormatOpenGrowClose(t *testing.T) {
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
	if m.Size != diskSize-DataOffset || m.Offset != DataOffset || m.Disk != d.Device ||
		m.Device.Kind != blockdev.KindCrypt || m.ReadOnly {
		t.Errorf("mapping %+v on %s", m, d.Device)
	}
	blocks := blockdev.New()
	if layers, err := blocks.Stack(m.Device); err != nil || !slices.Equal(layers, []blockdev.Device{m.Device, d.Device}) {
		t.Errorf("layers %v, %v", layers, err)
	}
	if dump := mustRun(t, "dmsetup", "table", m.Name); strings.Contains(dump, "logon") ||
		strings.Contains(dump, "allow_discards") {
		t.Errorf("table %s", dump)
	}
	mustRun(t, "mkfs.ext4", "-q", m.Device.Path)
	dir := mountMapping(t, m)
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
	dir = mountMapping(t, d.mustOpen(false))
	if data, err := os.ReadFile(filepath.Join(dir, "data")); string(data) != "precious" || err != nil {
		t.Errorf("read %q, %v", data, err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
}

// A restarted node plugin finds the open mapping with and without a passphrase, and does not
// open it twice.
func TestRealOpenIsIdempotent(t *testing.T) {
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

func TestRealPassphrasesAreUsedByteForByte(t *testing.T) {
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
	// Every byte of the passphrase counts, also a line feed and a NUL.
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

// The longest ids, and ids that are no valid names.
func TestRealMappingNamesAreUnique(t *testing.T) {
	for _, id := range []string{
		strings.Repeat("a", maxPlainID), strings.Repeat("a", maxPlainID+1), "../../etc",
		"with space", "ü", "a.b_c-D",
	} {
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

func TestRealReadOnlyMapping(t *testing.T) {
	d := newMappable(t)
	d.mustFormat()
	m := d.mustOpen(true)
	if ro, err := blockdev.New().IsReadOnly(m.Device); err != nil || !ro || !m.ReadOnly {
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
	// A mapping of a read-only disk is read-only too.
	if err := d.Close(t.Context(), d.id); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "blockdev", "--setro", d.Path)
	t.Cleanup(func() { mustRun(t, "blockdev", "--setrw", d.Path) })
	_, err = d.Open(t.Context(), d.openRequest(false))
	wantError(t, err, volume.KindInternal, "it has read-only=true")
	if _, ok, err := d.Find(t.Context(), d.id); ok || err != nil {
		t.Errorf("a mapping that is not the requested one is still open: %t, %v", ok, err)
	}
	if m := d.mustOpen(true); !m.ReadOnly {
		t.Errorf("got %+v", m)
	}
}

func TestRealCloseRefusesAMappingInUse(t *testing.T) {
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

	// A device node in a pod does not keep the mapping open, but counts as a use.
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

	// udev has the mapping open for a moment.
	d.busyTimeout = time.Minute
	if held, err = os.Open(m.Device.Path); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = held.Close() })
	if err := d.Close(ctx, d.id); err != nil {
		t.Error(err)
	}
}

// A device with the mapping's name that is not the volume's is not changed.
func TestRealDevicesOfOthersAreNotChanged(t *testing.T) {
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
		mustRun(t, "cryptsetup", "luksUUID", "--batch-mode", "--uuid", uuid.NewString(), d.Path)
		_, err := d.Open(ctx, d.openRequest(false))
		wantError(t, err, volume.KindPrecondition, m.UUID, "another header")
	})
	t.Run("no mapping at all", func(t *testing.T) {
		d := newMappable(t)
		d.mustFormat()
		name := MappingName(d.id)
		mustRun(t, "dmsetup", "create", name, "--table", "0 8 linear "+d.Path+" 0")
		_, err := d.Open(ctx, d.openRequest(false))
		wantError(t, err, volume.KindPrecondition, name, "was not changed")
		_, _, err = d.Find(ctx, d.id)
		wantError(t, err, volume.KindPrecondition, name, "was not changed")
		wantError(t, d.Close(ctx, d.id), volume.KindPrecondition, name, "was not changed")
		mustRun(t, "dmsetup", "remove", name)
	})
}

// Every access to a suspended mapping hangs.
func TestRealSuspendedMappingIsResumed(t *testing.T) {
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

// A killed cryptsetup has created the mapping without a table.
func TestRealMappingWithoutATableIsRemoved(t *testing.T) {
	d := newMappable(t)
	h := d.mustFormat()
	name := MappingName(d.id)
	mustRun(t, "dmsetup", "create", name, "--notable", "--uuid", dmUUID(h.UUID, name))
	if _, ok, err := d.Find(t.Context(), d.id); ok || err != nil {
		t.Errorf("found: %t, %v", ok, err)
	}
	d.mustOpen(false)
}

// Grow also grows the mappings of an administrator.
func TestRealGrowOfMappingsOfOthers(t *testing.T) {
	for name, c := range map[string]struct {
		format []string
		open   []string
		keyed  bool
	}{
		"LUKS2 keyring": {format: []string{
			"--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations",
			"1000",
		}, keyed: true},
		"LUKS2 key in the table": {format: []string{
			"--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations",
			"1000",
		}, open: []string{"--disable-keyring"}},
		"LUKS2 large sectors": {format: []string{
			"--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations",
			"1000", "--sector-size", "4096",
		}, keyed: true},
		"LUKS1": {format: []string{"--type", "luks1", "--pbkdf-force-iterations", "1000"}},
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

// A kernel without device mapper has no mappings. That is no error, so that volumes without
// encryption can be unstaged.
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

func TestRealMappingDiscardsOnlyIfAllowed(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		d := newMappable(t)
		d.discards = allowed
		d.mustFormat()
		m := d.mustOpen(false)
		for range 2 {
			limit, err := blockdev.New().DiscardLimit(m.Device)
			if err != nil || (limit > 0) != allowed {
				t.Errorf("allowed %t: the mapping of %s discards %s at a time, %v", allowed, m.Size, limit, err)
			}
			d.resize(96 * volume.MiB) // the table of a mapping that has grown has the flag, too
			if _, err := d.Grow(t.Context(), m.Device, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Close(t.Context(), d.id); err != nil {
			t.Fatal(err)
		}
	}
}
