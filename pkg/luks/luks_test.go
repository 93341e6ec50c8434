package luks

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// headerImage returns both copies of a header as cryptsetup writes them.
func headerImage(h Header) []byte {
	const size = 0x4000
	area := fmt.Sprintf(
		`{"keyslots":{"0":{"type":"luks2","kdf":{"type":"argon2id","memory":65536}}},`+
			`"segments":{"0":{"type":"crypt","offset":"%d","size":"dynamic","sector_size":%d}},"config":{}}`,
		h.Offset.Bytes(), h.Sector.Bytes())
	var image []byte
	for i, magic := range []string{primaryMagic, secondaryMagic} {
		b := make([]byte, size)
		copy(b, magic)
		binary.BigEndian.PutUint16(b[atVersion:], 2)
		binary.BigEndian.PutUint64(b[atSize:], size)
		binary.BigEndian.PutUint64(b[atSequence:], 3)
		copy(b[atChecksumName:], "sha256")
		copy(b[atUUID:], h.UUID)
		binary.BigEndian.PutUint64(b[atOwnOffset:], uint64(i*size))
		copy(b[binaryLength:], area)
		sum := sha256.Sum256(b)
		copy(b[atChecksum:], sum[:])
		image = append(image, b...)
	}
	return image
}

func TestReadHeader(t *testing.T) {
	want := Header{
		State: HeaderSound, UUID: "11111111-2222-3333-4444-555555555555", Offset: DataOffset, Sector: 4096,
		Memory: 64 * volume.MiB, hasSecondary: true,
	}
	good := headerImage(want)
	if h, err := readHeader(bytes.NewReader(good)); err != nil || h != want {
		t.Errorf("got %+v, %v; want %+v", h, err, want)
	}
	for name, c := range map[string]struct {
		image []byte
		state HeaderState
	}{
		"empty":               {nil, HeaderAbsent},
		"zeros":               {make([]byte, 1<<20), HeaderAbsent},
		"ends in the header":  {good[:5000], HeaderDamaged},
		"the newer copy wins": {newer(good), HeaderSound},
	} {
		if h, err := readHeader(bytes.NewReader(c.image)); err != nil || h.State != c.state {
			t.Errorf("%s: %s, %v; want %s", name, h, err, c.state)
		}
	}
	if _, err := readHeader(unreadable{}); !errors.Is(err, unix.EIO) {
		t.Errorf("a device that cannot be read: %v", err)
	}
}

// newer gives the second copy a higher sequence number.
func newer(image []byte) []byte {
	b := slices.Clone(image)
	second := b[0x4000:]
	second[atSequence+7] = 9
	clear(second[atChecksum : atChecksum+checksumField])
	sum := sha256.Sum256(second)
	copy(second[atChecksum:], sum[:])
	return b
}

type unreadable struct{}

func (unreadable) ReadAt([]byte, int64) (int, error) { return 0, unix.EIO }

func FuzzReadHeader(f *testing.F) {
	f.Add(headerImage(Header{UUID: "11111111-2222-3333-4444-555555555555", Offset: DataOffset, Sector: 512}), 80, byte(1))
	f.Fuzz(func(t *testing.T, image []byte, at int, value byte) {
		b := slices.Clone(image)
		if at >= 0 && at < len(b) {
			b[at] ^= value
		}
		h, err := readHeader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if h.State == HeaderSound && (h.UUID == "" || h.Offset < 0 || h.Sector < sectorSize) {
			t.Fatalf("%+v", h)
		}
	})
}

func TestMappingName(t *testing.T) {
	seen := map[string]string{}
	ids := []string{
		"", "a", "A", "a.b", "a-b", "a_b", "a/b", "a b", "a\x00b", "../x", "ü", strings.Repeat("x", maxPlainID),
		strings.Repeat("x", maxPlainID+1),
		strings.Repeat("x", 4000), "5f0a2a5e-9f4e-4b5e-8c53-1d6ce7e9d1b1",
	}
	for _, id := range ids {
		name := MappingName(id)
		if other, ok := seen[name]; ok {
			t.Errorf("%q and %q are both %q", id, other, name)
		}
		seen[name] = id
		uuid := dmUUID("11111111-2222-3333-4444-555555555555", name)
		if len(name) > 127 || len(uuid) > 128 || strings.ContainsAny(name, "/ \x00") {
			t.Errorf("%q: name %q (%d), UUID of %d", id, name, len(name), len(uuid))
		}
	}
	if seen[MappingName(MappingName("a/b")[len("growvol."):])] != "" {
		t.Error("an id that is another's hash has the same name")
	}
}

// The mapping decides about success, not the exit status of cryptsetup.
func TestOpenDoesNotTrustTheExitStatus(t *testing.T) {
	r := newRig(t)
	r.run = func(context.Context, cryptsetupCommand) (string, error) { return "", nil }
	_, err := r.Open(t.Context(), r.request())
	wantError(t, err, volume.KindInternal, "cryptsetup reported success", r.name)

	r.run = func(context.Context, cryptsetupCommand) (string, error) {
		r.open()
		return "complaint", errors.New("exit status 1")
	}
	if m, err := r.Open(t.Context(), r.request()); err != nil || m.Size != rigSize-DataOffset || m.Disk != r.disk {
		t.Errorf("%+v, %v", m, err)
	}
}

// A new mapping that is not the requested one is closed, and Open fails.
func TestOpenChecksTheNewMapping(t *testing.T) {
	for name, spoil := range map[string]func(*rig, *fakeMapping){
		"another disk": func(r *rig, m *fakeMapping) {
			other := r.disk
			other.Minor, m.table.minor = 32, 32
			r.kernel.devices[[2]uint32{8, 32}] = other
		},
		"a disk gone":      func(_ *rig, m *fakeMapping) { m.table.minor = 48 },
		"another header":   func(_ *rig, m *fakeMapping) { m.uuid = dmUUID("99999999-2222-3333-4444-555555555555", m.name) },
		"another offset":   func(_ *rig, m *fakeMapping) { m.table.offset = 4096 },
		"another sector":   func(_ *rig, m *fakeMapping) { m.table.sector = 4096 },
		"larger than disk": func(_ *rig, m *fakeMapping) { m.table.length += 512 },
		"read-only":        func(_ *rig, m *fakeMapping) { m.readOnly = true },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.run = func(context.Context, cryptsetupCommand) (string, error) { spoil(r, r.open()); return "", nil }
			_, err := r.Open(t.Context(), r.request())
			wantError(t, err, volume.KindInternal, r.name, "not the requested one")
			if len(r.kernel.mappings) > 0 {
				t.Error("the mapping stays")
			}
		})
	}
}

// The disk was unplugged, and plugged in again under another number.
func TestOpenReplacesAMappingWhoseDiskIsGone(t *testing.T) {
	r := newRig(t)
	m := r.open()
	m.table.minor = 48
	found, ok, err := r.Find(t.Context(), "vol")
	if err != nil || !ok || !found.DiskGone || found.Disk.Minor != 48 {
		t.Errorf("found %+v, %t, %v", found, ok, err)
	}
	m.openCount = 1 // of a program that looks at it, such as blkid: that passes
	_, err = r.Open(t.Context(), r.request())
	wantError(t, err, volume.KindDeadline, "8:48, which no longer exists", r.disk.Path, "still open")
	m.openCount = 0
	r.run = func(context.Context, cryptsetupCommand) (string, error) { r.open(); return "", nil }
	if opened, err := r.Open(t.Context(), r.request()); err != nil || opened.Disk != r.disk {
		t.Errorf("%+v, %v", opened, err)
	}
}

// A cryptsetup that has outlasted its node plugin holds the lock of the disk. Close waits for
// it and closes the mapping that it makes.
func TestCloseWaitsForACryptsetupThatOutlastedItsPlugin(t *testing.T) {
	for name, c := range map[string]struct {
		isOpen bool // before the close
		close  func(ctx context.Context, r *rig) error
	}{
		"with the mapping's disk": {true, func(ctx context.Context, r *rig) error { return r.Close(ctx, "vol") }},
		"with the given disk":     {false, func(ctx context.Context, r *rig) error { return r.CloseOn(ctx, "vol", r.disk) }},
		"with both":               {true, func(ctx context.Context, r *rig) error { return r.CloseOn(ctx, "vol", r.disk) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				if c.isOpen {
					r.open()
				}
				survivor, err := r.lockDisk(t.Context(), r.disk)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*lockPollInterval)
				defer cancel()
				wantError(t, c.close(ctx, r), volume.KindDeadline, "another program on this node still works on", r.disk.Path)
				r.open()
				closeQuietly(survivor)
				if err := c.close(t.Context(), r); err != nil || len(r.kernel.mappings) > 0 {
					t.Errorf("%v, %d mappings", err, len(r.kernel.mappings))
				}
			})
		})
	}
}

// No program works on a disk that no longer exists.
func TestCloseOnADiskThatIsGone(t *testing.T) {
	r := newRig(t)
	r.open()
	delete(r.kernel.devices, [2]uint32{8, 16})
	if err := os.Remove(r.disk.Path); err != nil {
		t.Fatal(err)
	}
	if err := r.CloseOn(t.Context(), "vol", r.disk); err != nil || len(r.kernel.mappings) > 0 {
		t.Errorf("%v, %d mappings", err, len(r.kernel.mappings))
	}
	r = newRig(t)
	r.open()
	if err := os.Remove(r.disk.Path); err != nil {
		t.Fatal(err)
	}
	if err := r.CloseOn(t.Context(), "vol", r.disk); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a disk that is there and cannot be locked: %v", err)
	}
	r = newRig(t)
	r.open()
	delete(r.kernel.devices, [2]uint32{8, 16})
	if err := os.Remove(r.disk.Path); err != nil {
		t.Fatal(err)
	}
	r.kernel.hasNoSysfs = true
	if err := r.CloseOn(t.Context(), "vol", r.disk); err == nil || len(r.kernel.mappings) != 1 {
		t.Errorf("without sysfs: %v, %d mappings; want an error and the mapping left open", err, len(r.kernel.mappings))
	}
}

func TestErrorsOfCryptsetup(t *testing.T) {
	exit := func(ctx context.Context, code string) error {
		return exec.CommandContext(ctx, "sh", "-c", code).Run()
	}
	for name, c := range map[string]struct {
		code string
		kind volume.Kind
		word string
	}{
		"wrong passphrase": {"exit 2", volume.KindPrecondition, "correct the secret"},
		"no memory":        {"exit 3", volume.KindInternal, "memory limit"},
		"killed":           {"kill -9 $$", volume.KindInternal, "memory limit"},
		"busy":             {"exit 5", volume.KindDeadline, "lsblk"},
		"anything":         {"exit 1", volume.KindInternal, "kernel log"},
	} {
		r := newRig(t)
		r.run = func(ctx context.Context, _ cryptsetupCommand) (string, error) {
			return "Something about " + diskPath + ".", exit(ctx, c.code)
		}
		_, err := r.Open(t.Context(), r.request())
		wantError(t, err, c.kind, c.word, "Something about "+r.disk.Path)
		if t.Failed() {
			t.Fatal(name)
		}
	}
	r := newRig(t)
	r.run = func(ctx context.Context, c cryptsetupCommand) (string, error) {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return "", err
		}
		defer closeQuietly(f)
		c.Disk = f
		return runProgram(ctx, c, []string{"no-such-program"})
	}
	_, err := r.Open(t.Context(), r.request())
	wantError(t, err, volume.KindInternal, "no-such-program", "contains cryptsetup")

	ctx, cancel := context.WithCancel(t.Context())
	r.run = func(context.Context, cryptsetupCommand) (string, error) {
		cancel()
		return "", errors.New("signal: killed")
	}
	_, err = r.Open(ctx, r.request())
	wantError(t, err, volume.KindCanceled, "stopped before it finished")
}

func TestGrowDoesNotTrustTheExitStatus(t *testing.T) {
	r := newRig(t)
	m := r.open()
	r.kernel.sizes["sdb"] = 2*rigSize + 100
	r.run = func(context.Context, cryptsetupCommand) (string, error) { return "", nil }
	_, err := r.Grow(t.Context(), r.mapping, nil)
	wantError(t, err, volume.KindInternal, "48 MiB", "112 MiB", "cryptsetup reported success")

	var ran []string
	r.run = func(_ context.Context, c cryptsetupCommand) (string, error) {
		ran = c.Args
		m.table.length = 2*rigSize - DataOffset
		m.suspended = true // and killed
		return "complaint", errors.New("exit status 1")
	}
	if size, err := r.Grow(t.Context(), r.mapping, []byte("hush")); err != nil || size != 2*rigSize-DataOffset {
		t.Errorf("%s, %v", size, err)
	}
	if want := []string{"resize", "--batch-mode", "--size", "229376", "--key-file", "-", "--", r.name}; !slices.Equal(ran,
		want) || r.kernel.resumed != 1 {
		t.Errorf("ran %q, resumed %d times", ran, r.kernel.resumed)
	}
	r.run = func(context.Context, cryptsetupCommand) (string, error) { return "", errors.New("no program expected") }
	if size, err := r.Grow(t.Context(), r.mapping, nil); err != nil || size != 2*rigSize-DataOffset {
		t.Errorf("a mapping that fills its disk: %s, %v", size, err)
	}
	m.table.keyring, r.kernel.sizes["sdb"] = true, 3*rigSize
	_, err = r.Grow(t.Context(), r.mapping, nil)
	wantError(t, err, volume.KindPrecondition, "keyring", "node-expand-secret")
	delete(r.kernel.mappings, r.name)
	_, err = r.Grow(t.Context(), r.mapping, nil)
	wantError(t, err, volume.KindInternal, "no such mapping")
}

// A device mapper that gives no answer proves nothing.
func TestErrorsOfDeviceMapper(t *testing.T) {
	r := newRig(t)
	r.open()
	r.kernel.err = &fs.PathError{Op: "open", Path: "/dev/mapper/control", Err: fs.ErrNotExist}
	_, ok, err := r.Find(t.Context(), "vol")
	wantError(t, err, volume.KindInternal, "host's /dev")
	if ok {
		t.Error("found")
	}
	wantError(t, r.Close(t.Context(), "vol"), volume.KindInternal, "host's /dev")
	_, err = r.Open(t.Context(), r.request())
	wantError(t, err, volume.KindInternal, "host's /dev")
	_, err = r.Grow(t.Context(), r.mapping, nil)
	wantError(t, err, volume.KindInternal, "host's /dev")
}

// linuxMapper distinguishes a kernel without device mapper from a container that cannot reach
// it. It does not need the control device for a mapping that sysfs proves absent: a nested node
// with a /dev of its own can unstage its plain volumes.
func TestMissingControlDevice(t *testing.T) {
	dir := t.TempDir()
	l := linuxMapper{
		control: filepath.Join(dir, "control"), class: filepath.Join(dir, "class"),
		blocks: filepath.Join(dir, "block"),
	}
	if _, ok, err := l.status("x"); ok || err != nil {
		t.Errorf("a kernel without device mapper: %t, %v", ok, err)
	}
	if err := os.Mkdir(l.class, 0o755); err != nil {
		t.Fatal(err)
	}
	want := func(when string, found bool, errs ...error) {
		t.Helper()
		for i, err := range errs {
			if errors.Is(err, fs.ErrNotExist) != found {
				t.Errorf("%s, question %d: %v", when, i, err)
			}
		}
	}
	ask := func() []error {
		_, _, byName := l.status("x")
		_, _, byNumber := l.statusOf(253, 0)
		return []error{byName, byNumber}
	}
	want("sysfs cannot be read", true, ask()...)
	addDM := func(device, name string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(l.blocks, device, "dm"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(l.blocks, device, "dm", "name"), []byte(name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(l.blocks, "sda"), 0o755); err != nil {
		t.Fatal(err)
	}
	want("no mappings", false, ask()...)
	addDM("dm-0", "y")
	want("a mapping of another name", false, ask()[0])
	want("a mapping that may have the number", true, ask()[1])
	addDM("dm-1", "x")
	want("a mapping of the name", true, ask()...)
	addDM("dm-1", "z")
	if err := os.Remove(filepath.Join(l.blocks, "dm-0", "dm", "name")); err != nil {
		t.Fatal(err)
	}
	want("a mapping whose name cannot be read", true, ask()...)
}

// crypt returns a dm_target_spec of type crypt with its parameters.
func crypt(length volume.Size, params string) []byte {
	spec := make([]byte, 40)
	binary.NativeEndian.PutUint64(spec[8:], uint64(length/sectorSize))
	copy(spec[24:], "crypt")
	return slices.Concat(spec, []byte(params), []byte{0})
}

func TestParseCryptTarget(t *testing.T) {
	good := crypt(volume.GiB, "aes-xts-plain64 :64:logon:x 0 8:1 32768 1 sector_size:4096")
	table, err := parseCryptTarget(good)
	want := cryptTable{length: volume.GiB, offset: DataOffset, sector: 4096, keyring: true, major: 8, minor: 1}
	if err != nil || table != want {
		t.Errorf("%+v, %v", table, err)
	}
	for _, bad := range [][]byte{
		nil, good[:20], good[:len(good)-1],
		crypt(volume.GiB, ""), crypt(volume.GiB, "aes secretkey 0 8:1"), crypt(volume.GiB, "aes secretkey 0 8:1 -4"),
		crypt(volume.GiB, "aes secretkey 0 8:1 99999999999999999999"),
		crypt(volume.GiB, "aes secretkey 0 8:1 4 1 sector_size:0"),
		crypt(volume.GiB, "aes 0 0 secretkey 4"), slices.Concat(good[:24], []byte("linear"), good[30:]),
	} {
		if table, err := parseCryptTarget(bad); err == nil || strings.Contains(err.Error(), "secretkey") {
			t.Errorf("%q: %+v, %v", bad, table, err)
		}
	}
}

func FuzzParseCryptTarget(f *testing.F) {
	f.Add(crypt(volume.GiB, "aes-xts-plain64 :64:logon:x 0 8:1 32768 1 sector_size:4096"))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := parseCryptTarget(data)
		if err == nil && (table.length < 0 || table.offset < 0 || table.sector <= 0) {
			t.Fatalf("%q: %+v", data, table)
		}
	})
}
