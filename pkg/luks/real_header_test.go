package luks

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/growvol/growvol/pkg/volume"
)

// zero overwrites a copy of the header with zeros.
func zero(length int) []byte { return make([]byte, length) }

const (
	firstCopy  = 0
	secondCopy = 0x4000
)

// One copy of the header is enough; cryptsetup restores the other.
func TestRealHeaderWithOneDamagedCopyOpens(t *testing.T) {
	for name, damage := range map[string]func(*disk){
		"the first copy's checksum is wrong":     func(d *disk) { d.write(firstCopy+4200, []byte("!")) },
		"the first copy is zero":                 func(d *disk) { d.write(firstCopy, zero(secondCopy)) },
		"the second copy's checksum is wrong":    func(d *disk) { d.write(secondCopy+4200, []byte("!")) },
		"the second copy is missing":             func(d *disk) { d.write(secondCopy, zero(secondCopy)) },
		"the second copy is something else's":    func(d *disk) { d.write(secondCopy, bytes.Repeat([]byte("data"), 4096)) },
		"the first copy has an impossible size":  func(d *disk) { d.write(firstCopy+atSize, []byte{0xff}) },
		"the first copy has an impossible place": func(d *disk) { d.write(firstCopy+atOwnOffset, []byte{0xff}) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDiskOf(t, crashSize)
			sound := d.mustFormat()
			damage(d)
			h, err := d.Header(t.Context(), d.Device)
			if err != nil || h.State != HeaderSound || h.Problem == "" || h.UUID != sound.UUID || h.Offset != DataOffset {
				t.Fatalf("%s, %v", h, err)
			}
			if h, fresh, err := d.Format(t.Context(), d.formatRequest()); err != nil || !fresh || h.UUID != sound.UUID {
				t.Errorf("format: %s, fresh %t, %v", h, fresh, err)
			}
			if !hasMapper() {
				t.Skip("needs a kernel with device mapper for the rest: make test-guest has one")
			}
			d.mustOpen(false)
			if h, err := d.Header(t.Context(), d.Device); err != nil ||
				h != (Header{
					State: HeaderSound, UUID: sound.UUID, Offset: sound.Offset, Sector: sound.Sector, Memory: sound.Memory,
					hasSecondary: true,
				}) {
				t.Errorf("after it was opened: %+v, %v", h, err)
			}
			if err := d.Close(t.Context(), d.id); err != nil {
				t.Error(err)
			}
		})
	}
}

// A device with an unusable header is neither opened nor formatted, not even with the marker
// of the format that made the header.
func TestRealUnusableHeadersAreNotChanged(t *testing.T) {
	key := func(t *testing.T, args ...string) {
		t.Helper()
		mustRun(t, "cryptsetup", append([]string{"--batch-mode", "--key-file", "-", "--pbkdf-force-iterations", "1000"},
			args...)...)
	}
	for name, c := range map[string]struct {
		make  func(*testing.T, *disk)
		state HeaderState
		words string
	}{
		"both copies damaged": {func(_ *testing.T, d *disk) {
			d.write(firstCopy+4200, []byte("!"))
			d.write(secondCopy+4200, []byte("!"))
		}, HeaderDamaged, "wrong checksum"},
		"the beginning is a filesystem": {func(t *testing.T, d *disk) {
			t.Helper()
			second := make([]byte, secondCopy)
			f, err := os.Open(d.Path)
			if err == nil {
				_, err = f.ReadAt(second, secondCopy)
			}
			mustRun(t, "mkfs.ext4", "-q", "-F", d.Path)
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			d.write(secondCopy, second)
			d.write(firstCopy, []byte("boot"))
		}, HeaderDamaged, "the beginning of the device was overwritten"},
		"copies of two headers": {func(t *testing.T, d *disk) {
			t.Helper()
			first := make([]byte, secondCopy)
			f, err := os.Open(d.Path)
			if err == nil {
				_, err = f.ReadAt(first, 0)
			}
			mustRun(t, "cryptsetup", "luksUUID", "--batch-mode", "--uuid", uuid.NewString(), d.Path)
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			d.write(firstCopy, first)
		}, HeaderDamaged, "different UUIDs"},
		"LUKS1": {func(t *testing.T, d *disk) {
			t.Helper()
			key(t, "luksFormat", "--type", "luks1", d.Path)
		}, HeaderLUKS1, "LUKS1"},
		"all key slots erased": {func(t *testing.T, d *disk) {
			t.Helper()
			if err := RemoveMarker(d.marker); err != nil {
				t.Fatal(err)
			}
			mustRun(t, "cryptsetup", "luksErase", "--batch-mode", d.Path)
		}, HeaderUnfinished, "without a key slot"},
		"a reencryption has begun": {func(t *testing.T, d *disk) {
			t.Helper()
			d.truncate(2 * crashSize)
			mustRun(t, "losetup", "-c", d.Path)
			key(t, "luksFormat", "--type", "luks2", "--pbkdf", "pbkdf2", d.Path)
			mustRun(t, "cryptsetup", "reencrypt", "--batch-mode", "--key-file", "-", "--init-only", "--pbkdf", "pbkdf2",
				"--pbkdf-force-iterations", "1000", d.Path)
		}, HeaderUnsupported, "online-reencrypt"},
		"nothing": {func(t *testing.T, d *disk) {
			t.Helper()
			mustRun(t, "mkfs.ext4", "-q", "-F", d.Path)
			d.write(0, zero(1024))
			d.write(secondCopy, zero(secondCopy))
			if err := RemoveMarker(d.marker); err != nil {
				t.Fatal(err)
			}
		}, HeaderAbsent, "no LUKS header"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDiskOf(t, crashSize)
			d.mustFormat()
			c.make(t, d)
			h, err := d.Header(t.Context(), d.Device)
			if err != nil || h.State != c.state {
				t.Fatalf("%s (state %s), %v; want state %s", h, h.State, err, c.state)
			}
			before := d.fingerprint()
			_, err = d.Open(t.Context(), d.openRequest(false)) // fails before it needs device mapper
			wantError(t, err, volume.KindPrecondition, d.Path, c.words)
			if _, _, err = d.Format(t.Context(), d.formatRequest()); volume.KindOf(err) != volume.KindPrecondition {
				t.Errorf("formatted: %v", err)
			} else {
				t.Log(err)
			}
			if d.fingerprint() != before {
				t.Error("the refusals have changed the device")
			}
		})
	}
}

// The header of a format is fresh until the first use of the volume, and only on the node that
// made it.
func TestRealFormatReportsAFreshHeader(t *testing.T) {
	d := newDiskOf(t, crashSize)
	ctx := t.Context()
	d.mustFormat()
	req := d.formatRequest()
	if _, fresh, err := d.Format(ctx, req); err != nil || !fresh {
		t.Errorf("again: fresh %t, %v", fresh, err)
	}
	req.Marker = filepath.Join(t.TempDir(), "other")
	if _, fresh, err := d.Format(ctx, req); err != nil || fresh {
		t.Errorf("on another node: fresh %t, %v", fresh, err)
	}
	d.now = func() time.Time { return time.Now().Add(25 * time.Hour) }
	if _, fresh, err := d.Format(ctx, d.formatRequest()); err != nil || fresh {
		t.Errorf("a day later: fresh %t, %v", fresh, err)
	}
	d.now = time.Now
	for range 2 {
		if err := RemoveMarker(d.marker); err != nil {
			t.Fatal(err)
		}
	}
	if _, fresh, err := d.Format(ctx, d.formatRequest()); err != nil || fresh {
		t.Errorf("in use: fresh %t, %v", fresh, err)
	}
}

// Format refuses a device that is too small, unreadable or not blank.
func TestRealFormatRefusesDevicesThatAreNotBlank(t *testing.T) {
	ctx := t.Context()
	small := newDiskOf(t, DataOffset)
	_, _, err := small.Format(ctx, small.formatRequest())
	wantError(t, err, volume.KindPrecondition, "too small", "17 MiB")

	d := newDiskOf(t, crashSize)
	for name, c := range map[string]Content{
		"recognized": {Recognized: true, Name: "swap space"},
		"unknown":    {Name: "unknown data"},
	} {
		req := d.formatRequest()
		req.Content = func(context.Context) (Content, error) { return c, nil }
		_, _, err := d.Format(ctx, req)
		wantError(t, err, volume.KindPrecondition, c.Name, "not blank", "wipefs")
		if t.Failed() {
			t.Log(name)
		}
	}
	// Recognized content never comes from an interrupted format of this driver.
	if err := writeMarker(d.marker, marker{
		UUID: uuid.NewString(), DeviceSize: crashSize, Zero: true,
		Begun: time.Now(),
	}); err != nil {
		t.Fatal(err)
	}
	req := d.formatRequest()
	req.Content = func(context.Context) (Content, error) { return Content{Recognized: true, Name: "swap space"}, nil }
	_, _, err = d.Format(ctx, req)
	wantError(t, err, volume.KindPrecondition, "swap space", "blank devices only")

	// An interrupted format has written nothing after the key slots, where these data are.
	if err := writeMarker(d.marker, marker{
		UUID: uuid.NewString(), DeviceSize: crashSize, Zero: true,
		Begun: time.Now(),
	}); err != nil {
		t.Fatal(err)
	}
	d.write(DataOffset.Bytes()+4096*100, bytes.Repeat([]byte("data"), 10000))
	_, _, err = d.Format(ctx, d.formatRequest())
	wantError(t, err, volume.KindPrecondition, "unknown data", "no marker on this node proves")
}
