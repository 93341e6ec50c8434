package filesystem

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/statefile"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// TestRealFormatReadsBackTheProfile also compares the checksum of mke2fs with that of this
// package.
func TestRealFormatReadsBackTheProfile(t *testing.T) {
	for _, fs := range []Type{TypeExt2, TypeExt3, TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			s, d := New(Options{}), newDisk(t, 320*volume.MiB)
			if sig, err := s.Probe(t.Context(), d.open(t)); err != nil || sig.State != StateBlank {
				t.Fatalf("probe of a new disk: %+v, %v; want blank", sig, err)
			}
			if err := s.Format(t.Context(), FormatRequest{Device: d.open(t), Type: fs}); err != nil {
				t.Fatal(err)
			}
			want := Signature{State: StateFormatted, Type: fs, IsComplete: true, Size: 320 * volume.MiB}
			if sig, err := s.Probe(t.Context(), d.open(t)); err != nil || sig != want {
				t.Fatalf("probe: %+v, %v; want %+v", sig, err, want)
			}
			geo := unmountedGeometry(t, d.open(t))
			if geo.blockSize != 4096 || geo.size() != 320*volume.MiB {
				t.Fatalf("geometry: %+v; want 320 MiB in blocks of 4096 bytes", geo)
			}
			d.fsck(t, fs)
			if fs != TypeExt4 {
				return
			}
			f, err := os.Open(d.device)
			if err != nil {
				t.Fatal(err)
			}
			defer closeQuietly(f)
			b, err := readArea(f, extOffset, extLength)
			if err != nil {
				t.Fatal(err)
			}
			if e, ok := parseExt(b); !ok || !e.hasChecksum || !e.isChecksumValid {
				t.Fatalf("the checksum of mke2fs does not match: %+v", e)
			}
		})
	}
}

// TestRealFormatLeavesForeignContent has devices that other programs have written to.
func TestRealFormatLeavesForeignContent(t *testing.T) {
	for name, tc := range map[string]struct {
		make func(t *testing.T, d loopDisk)
		want string
	}{
		"swap": {
			func(t *testing.T, d loopDisk) { t.Helper(); mustRun(t, "mkswap", d.device) },
			"swap",
		},
		"LUKS":       {makeLUKS, "LUKS encryption"},
		"partitions": {makePartitions, "partition table (GPT)"},
		"GPT backup": {func(t *testing.T,
			d loopDisk,
		) {
			t.Helper()
			makePartitions(t, d)
			d.zero(t, 0, 1<<20)
		}, "partition table (GPT backup)"},
		"XFS": {
			func(t *testing.T, d loopDisk) { t.Helper(); d.mkfs(t, TypeXFS) },
			"an xfs filesystem of 320 MiB",
		},
		"ext4 without its first MiB": {func(t *testing.T,
			d loopDisk,
		) {
			t.Helper()
			d.mkfs(t, TypeExt4, "-b", "4096")
			d.zero(t, 0, 1<<20)
		}, "unknown data"},
		"btrfs without its first MiB": {func(t *testing.T,
			d loopDisk,
		) {
			t.Helper()
			d.mkfs(t, TypeBtrfs)
			d.zero(t, 0, 1<<20)
		}, "unknown data"},
		"XFS without its first MiB": {func(t *testing.T,
			d loopDisk,
		) {
			t.Helper()
			d.mkfs(t, TypeXFS)
			d.zero(t, 0, 1<<20)
		}, "unknown data"},
	} {
		t.Run(name, func(t *testing.T) {
			s, d := New(Options{}), newDisk(t, 320*volume.MiB)
			tc.make(t, d)
			before := filepath.Join(t.TempDir(), "before")
			mustRun(t, "cp", "--sparse=always", d.file, before)
			marker := filepath.Join(t.TempDir(), "marker")
			err := s.Format(t.Context(), FormatRequest{Device: d.open(t), Type: TypeExt4, Marker: marker})
			volumetest.WantKind(t, err, volume.KindPrecondition, "holds "+tc.want, "wipefs")
			mustRun(t, "cmp", before, d.file) // the refusal has changed nothing
		})
	}
}

func makeLUKS(t *testing.T, d loopDisk) {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("only for this test"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "cryptsetup", "-q", "luksFormat", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations",
		"1000", "--key-file", key, d.device)
}

// makePartitions writes header and backup of a GPT.
func makePartitions(t *testing.T, d loopDisk) {
	t.Helper()
	f, err := os.OpenFile(d.device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	header := make([]byte, 512)
	copy(header, "EFI PART\x00\x00\x01\x00")
	binary.LittleEndian.PutUint32(header[12:], 92)
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.WriteAt(header, 512)
	}
	if err == nil {
		_, err = f.WriteAt(header, size-512)
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func (d loopDisk) zero(t *testing.T, at int64, length int) {
	t.Helper()
	d.write(t, at, make([]byte, length))
}

func (d loopDisk) write(t *testing.T, at int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(d.device, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(data, at)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestRealFormatFindsDataInTheMiddle writes data far from both ends of the device and from
// every superblock.
func TestRealFormatFindsDataInTheMiddle(t *testing.T) {
	s, d := New(Options{}), newDisk(t, 256*volume.MiB)
	data := make([]byte, 20<<20)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	d.write(t, 20<<20+8192, data)
	volumetest.WantKind(t, s.Format(t.Context(), FormatRequest{Device: d.open(t), Type: TypeExt4}),
		volume.KindPrecondition,
		"unknown data", "wipefs")
}

// TestRealFormatContinuesAfterAKill kills mkfs at later and later moments. The next Format
// must continue each time, and an unfinished filesystem must never count as finished.
func TestRealFormatContinuesAfterAKill(t *testing.T) {
	for fs, size := range map[Type]volume.Size{
		TypeExt3: 3 * volume.GiB, TypeExt4: 4 * volume.GiB,
		TypeXFS: 2 * volume.GiB, TypeBtrfs: 2 * volume.GiB,
	} {
		t.Run(string(fs), func(t *testing.T) {
			s, d := New(Options{}), newDisk(t, size)
			marker := filepath.Join(t.TempDir(), "marker")
			req := FormatRequest{Device: d.open(t), Type: fs, Marker: marker}
			killed := 0
			for after := 10 * time.Millisecond; ; after += 2*time.Millisecond + after/8 {
				ctx, cancel := context.WithTimeout(t.Context(), after)
				err := s.Format(ctx, req)
				cancel()
				if err == nil {
					break
				}
				if kind := volume.KindOf(err); kind != volume.KindDeadline {
					t.Fatalf("stopped after %s: %v, want kind Deadline", after, err)
				}
				killed++
				if after > time.Minute {
					t.Fatal("mkfs does not finish within a minute")
				}
			}
			t.Logf("stopped %d times", killed)
			if _, exists, err := statefile.ReadMarker[any](marker); err != nil || exists {
				t.Errorf("the marker was not removed (%v)", err)
			}
			d.fsck(t, fs)
		})
	}
}

func TestRealFormatEncrypted(t *testing.T) {
	for _, fs := range []Type{TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			s, d := New(Options{}), newDisk(t, 320*volume.MiB)
			noise := make([]byte, 4<<20)
			if _, err := rand.Read(noise); err != nil {
				t.Fatal(err)
			}
			for at := int64(0); at < 320<<20; at += int64(len(noise)) {
				d.write(t, at, noise)
			}
			req := FormatRequest{Device: d.open(t), Type: fs}
			volumetest.WantKind(t, s.Format(t.Context(), req), volume.KindPrecondition, "unknown data (random bytes)", "wipefs")
			req.IsEncrypted = true
			if err := s.Format(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			d.fsck(t, fs)
		})
	}
}

func TestRealOpenWriterFailsOnAMountedDevice(t *testing.T) {
	skipWithoutFilesystem(t, TypeXFS)
	s, d := New(Options{}), newDisk(t, 320*volume.MiB)
	d.mkfs(t, TypeXFS)
	d.mount(t, s, TypeXFS)
	_, err := d.open(t).OpenWriter()
	volumetest.WantKind(t, err, volume.KindDeadline, "in use by a mount")
	sig, err := s.Probe(t.Context(), d.open(t))
	if err != nil || sig.Type != TypeXFS {
		t.Fatalf("probe of a mounted device: %+v, %v; want xfs", sig, err)
	}
}

// TestRealCheck checks a filesystem that is clean, one that e2fsck -p can repair, and one
// that it cannot.
func TestRealCheck(t *testing.T) {
	s, d := New(Options{}), newDisk(t, 320*volume.MiB)
	d.mkfs(t, TypeExt4, "-b", "4096")
	if err := s.Check(t.Context(), d.open(t), TypeExt4); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "debugfs", "-w", "-R", "set_super_value free_blocks_count 5", d.device)
	mustRun(t, "debugfs", "-w", "-R", "set_super_value state 0", d.device)
	if err := s.Check(t.Context(), d.open(t), TypeExt4); err != nil {
		t.Fatal(err)
	}
	d.fsck(t, TypeExt4)
	mustRun(t, "debugfs", "-w", "-R", "clri <2>", d.device)
	mustRun(t, "debugfs", "-w", "-R", "set_super_value state 2", d.device)
	volumetest.WantKind(t, s.Check(t.Context(), d.open(t), TypeExt4), volume.KindPrecondition, "e2fsck -p found damage",
		"by hand")
}

func TestRealCheckFailsWhileTheDeviceIsInUse(t *testing.T) {
	s, d := New(Options{}), newDisk(t, 320*volume.MiB)
	d.mkfs(t, TypeExt4)
	held := d.openExclusively(t)
	volumetest.WantKind(t, s.Check(t.Context(), d.open(t), TypeExt4), volume.KindDeadline, "still in use",
		"retries this automatically")
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context(), d.open(t), TypeExt4); err != nil {
		t.Error(err)
	}
}

func TestRealFormatFailsWhileTheDeviceIsInUse(t *testing.T) {
	for _, fs := range []Type{TypeExt2, TypeExt3, TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			s, d := New(Options{}), newDisk(t, 320*volume.MiB)
			defer closeQuietly(d.openExclusively(t))
			volumetest.WantKind(t, s.Format(t.Context(), FormatRequest{Device: d.open(t), Type: fs}), volume.KindDeadline,
				"which is in use", "retries this automatically")
		})
	}
}
