package filesystem

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// TestRealAcceptsWhatTheKernelMounts asks the kernel to mount each ext filesystem as each
// ext type.
func TestRealAcceptsWhatTheKernelMounts(t *testing.T) {
	types := []Type{TypeExt2, TypeExt3, TypeExt4}
	for _, found := range types {
		s, d, target := New(Options{}), newDisk(t, 64*volume.MiB), t.TempDir()
		d.mkfs(t, found)
		for _, want := range types {
			skipWithoutFilesystem(t, want)
			err := unix.Mount(d.device, target, string(want), 0, "")
			if err == nil {
				err = unix.Unmount(target, 0)
			} else if want.Accepts(found) {
				t.Errorf("the kernel refuses an %s as %s: %v", found, want, err)
				continue
			}
			if err == nil && !want.Accepts(found) {
				t.Errorf("the kernel mounts an %s as %s", found, want)
			}
		}
		d.mountAt(t, s, found, target)
		unmount(t, s, target)
	}
	for _, other := range []Type{TypeXFS, TypeBtrfs} {
		if TypeExt4.Accepts(other) || other.Accepts(TypeExt4) || !Type("").Accepts(other) || !other.Accepts(other) {
			t.Errorf("%s: Accepts is wrong for ext4, for itself or for no wanted type", other)
		}
	}
}

// TestRealCheckSkipsAnUnknownFeature: an e2fsck that does not know a feature finds no
// damage. The kernel decides at the mount.
func TestRealCheckSkipsAnUnknownFeature(t *testing.T) {
	skipWithoutFilesystem(t, TypeExt4)
	for feature, mountable := range map[string]string{"FEATURE_C31": "rw", "FEATURE_R31": "ro", "FEATURE_I31": ""} {
		t.Run(feature, func(t *testing.T) {
			d := newDisk(t, 64*volume.MiB)
			d.mkfs(t, TypeExt4)
			mustRun(t, "debugfs", "-w", "-R", "feature "+feature, d.device)
			var log bytes.Buffer
			s := New(Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
			if err := s.Check(t.Context(), d.open(t), TypeExt4); err != nil {
				t.Fatal(err)
			}
			if text := log.String(); !strings.Contains(text, "level=WARN") || !strings.Contains(text, "too old") ||
				!strings.Contains(text, feature) {
				t.Errorf("the log has no warning with the feature: %s", text)
			}
			req := MountRequest{Device: d.open(t), Target: t.TempDir(), Type: TypeExt4}
			switch mountable {
			case "rw":
				d.mountAt(t, s, TypeExt4, req.Target)
			case "ro":
				volumetest.WantKind(t, s.Mount(t.Context(), req), volume.KindPrecondition, "mount "+d.device,
					"kernel refuses an option or the filesystem itself")
				d.mountAt(t, s, TypeExt4, req.Target, "ro")
			default:
				volumetest.WantKind(t, s.Mount(t.Context(), req), volume.KindPrecondition, "mount "+d.device,
					"kernel refuses an option or the filesystem itself")
			}
		})
	}
}

// TestRealMountExplainsBlockSizes copies filesystems from a disk with sectors of 512 bytes
// to one with sectors of 4096 bytes.
func TestRealMountExplainsBlockSizes(t *testing.T) {
	for name, tc := range map[string]struct {
		fs      Type
		options []string
		unit    string // empty: it can be mounted
	}{
		"XFS":                 {TypeXFS, nil, "512 B"},
		"ext4, 1 KiB blocks":  {TypeExt4, []string{"-b", "1024"}, "1 KiB"},
		"ext4 as Format does": {TypeExt4, []string{"-b", "4096"}, ""},
		"XFS, 4 KiB sectors":  {TypeXFS, []string{"-s", "size=4096"}, ""},
		"btrfs":               {TypeBtrfs, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			skipWithoutFilesystem(t, tc.fs)
			s, made := New(Options{}), newDisk(t, 320*volume.MiB)
			made.mkfs(t, tc.fs, tc.options...)
			moved := made.copyTo(t, "--sector-size=4096")
			if size, err := moved.open(t).BlockSize(); err != nil || size != 4096 {
				t.Fatalf("block size %s, %v; want 4096 bytes", size, err)
			}
			if tc.unit == "" {
				moved.mount(t, s, tc.fs)
				return
			}
			err := s.Mount(t.Context(), MountRequest{Device: moved.open(t), Target: t.TempDir(), Type: tc.fs})
			volumetest.WantKind(t, err, volume.KindPrecondition, "mount "+moved.device,
				"units of "+tc.unit+", which this device, with blocks of 4 KiB, cannot")
			volumetest.WantKind(t, err, volume.KindPrecondition, "copy the data", "bus or hypervisor")
		})
	}
}

// copyTo copies the disk to a loop device that losetup makes with these options.
func (d loopDisk) copyTo(t *testing.T, options ...string) loopDisk {
	t.Helper()
	copied := loopDisk{file: filepath.Join(t.TempDir(), "moved")}
	mustRun(t, "cp", "--sparse=always", d.file, copied.file)
	copied.device = attachFreeLoop(t, copied.file, options...)
	t.Cleanup(func() { mustRun(t, "losetup", "-d", copied.device) })
	return copied
}

// TestRealMinSizeIsTheSmallestThatFormats checks each value of capability.MinFilesystemSize
// from both sides.
func TestRealMinSizeIsTheSmallestThatFormats(t *testing.T) {
	for _, fs := range []Type{TypeExt2, TypeExt3, TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			minSize := capability.MinFilesystemSize(string(fs))
			s, d := New(Options{}), newDisk(t, minSize)
			if err := s.Format(t.Context(), FormatRequest{Device: d.open(t), Type: fs}); err != nil {
				t.Fatalf("format at %s: %v, want success", minSize, err)
			}
			skipWithoutFilesystem(t, fs.mountType())
			d.mount(t, s, fs)
			d = newDisk(t, minSize-4096)
			err := s.Format(t.Context(), FormatRequest{Device: d.open(t), Type: fs})
			if err == nil {
				t.Fatalf("format at one block less than %s succeeded", minSize)
			}
			volumetest.WantKind(t, err, volume.KindInternal, "", "check the")
			t.Log(err)
		})
	}
}

// TestRealFormatShowsTheCauseOfMkfs checks that the message of a failed mkfs has the cause,
// but no usage text.
func TestRealFormatShowsTheCauseOfMkfs(t *testing.T) {
	for _, tc := range []struct {
		fs      Type
		size    volume.Size
		options string
		cause   string
	}{
		{TypeXFS, 200 * volume.MiB, "", "Filesystem must be larger than 300MB."},
		{TypeXFS, 320 * volume.MiB, "-d agsize=1", "Invalid value 1 for -d agsize option. Value is too small."},
		{TypeXFS, 320 * volume.MiB, "-z", "unknown option -z"},
		{TypeXFS, 320 * volume.MiB, "-i foo=1", "unknown option -i foo=1"},
		{TypeBtrfs, 64 * volume.MiB, "", "minimum size for each btrfs device is 114294784"},
		{TypeBtrfs, 320 * volume.MiB, "--nosuch", "unrecognized option '--nosuch'"},
		{TypeBtrfs, 320 * volume.MiB, "-O nosuch", "unrecognized filesystem feature 'nosuch'"},
		{TypeBtrfs, 320 * volume.MiB, "-L", "usage: mkfs.btrfs"},
		{TypeExt4, 128 * volume.KiB, "", "Not enough space to build proposed filesystem"},
		{TypeExt4, 64 * volume.MiB, "-E foo=1", "Bad option(s) specified: foo"},
		{TypeExt4, 64 * volume.MiB, "-J foo=1", "Bad journal options specified."},
		{TypeExt3, 64 * volume.MiB, "-O nosuch", "Invalid filesystem option set: nosuch"},
		{TypeExt2, 64 * volume.MiB, "-N 999999999", "inodes_count (999999999) too big"},
		{TypeExt4, 64 * volume.MiB, "-I 77", "invalid inode size 77 (min 128/max 4096)"},
		{TypeExt4, 64 * volume.MiB, "--nosuch", "invalid option -- '-'"},
	} {
		t.Run(string(tc.fs)+" "+tc.options, func(t *testing.T) {
			s, d := New(Options{}), newDisk(t, tc.size)
			err := s.Format(t.Context(), FormatRequest{Device: d.open(t), Type: tc.fs, Options: strings.Fields(tc.options)})
			volumetest.WantKind(t, err, volume.KindInternal, tc.cause, "mkfs options")
			text := err.Error()
			for _, usage := range []string{
				"/* quiet */", "devicename", "Allocation profiles", "Valid ", "separated by commas",
				"btrfs-progs v", "http", "[-c|-l", "mke2fs 1.",
			} {
				if strings.Contains(text, usage) {
					t.Errorf("the message has %q of a usage text or banner: %s", usage, text)
				}
			}
			if strings.HasPrefix(tc.cause, "usage") != strings.Contains(strings.ToLower(text), "usage:") || len(text) > 900 {
				t.Errorf("message of %d bytes: %s", len(text), text)
			}
		})
	}
}
