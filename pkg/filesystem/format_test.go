package filesystem

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	utilexec "k8s.io/utils/exec"
	testingexec "k8s.io/utils/exec/testing"

	"github.com/growvol/growvol/pkg/statefile"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// formatTest is a device of 1 GiB and a mkfs that makes the filesystem it is asked for.
type formatTest struct {
	kernel      *fakeKernel
	system      *System
	device      *fakeDevice
	marker      string
	commands    []string
	mkfs        func(command []string) error // instead of success
	mkfsOutput  string                       // of that mkfs
	blkidOutput string                       // what blkid says
	blkidErr    error                        // blkid fails
	// duringBlkid, when set, is called by each blkid.
	duringBlkid func()
}

func newFormatTest(t *testing.T) *formatTest {
	t.Helper()
	k := newFakeKernel(t)
	r := &formatTest{
		kernel: k, device: k.addDevice(testDevice, 0, volume.GiB), system: k.system(),
		marker: filepath.Join(t.TempDir(), "vol.mkfs"),
	}
	r.system.exec = fakeExec(t, func(command []string) ([]byte, error) {
		r.commands = append(r.commands, strings.Join(command, " "))
		if command[0] == "blkid" && r.duringBlkid != nil {
			r.duringBlkid()
		}
		switch {
		case command[0] == "blkid" && r.blkidErr != nil:
			return nil, r.blkidErr
		case command[0] == "blkid" && r.blkidOutput != "":
			return []byte(r.blkidOutput), nil
		case command[0] == "blkid":
			return nil, testingexec.FakeExitError{Status: 2} // nothing found
		case r.mkfs != nil:
			return []byte(cmp.Or(r.mkfsOutput, "mkfs output")), r.mkfs(command)
		default:
			r.putFilesystem(Type(strings.TrimPrefix(command[0], "mkfs.")))
			return nil, nil
		}
	})
	return r
}

// putFilesystem writes the superblock of a complete filesystem to the device.
func (r *formatTest) putFilesystem(t Type) {
	clear(r.device.head)
	switch t {
	case TypeXFS:
		copy(r.device.head, encodeXFS(1<<18, false))
	case TypeBtrfs:
		copy(r.device.head[btrfsOffset:], encodeBtrfs(1<<30, btrfsMagic))
	case TypeExt3:
		ext3Spec(volume.GiB).writeTo(r.device)
	case TypeExt2:
		e := ext3Spec(volume.GiB)
		e.compat &^= extCompatHasJournal
		e.writeTo(r.device)
	default:
		ext4Spec(volume.GiB).writeTo(r.device)
	}
}

func (r *formatTest) format(ctx context.Context, fs Type, options ...string) error {
	return r.system.Format(ctx, FormatRequest{Device: r.device, Type: fs, Options: options, Marker: r.marker})
}

func (r *formatTest) hasMarker(t *testing.T) bool {
	t.Helper()
	_, exists, err := statefile.ReadMarker[marker](r.marker)
	if err != nil {
		t.Fatal(err)
	}
	return exists
}

func TestFormatRunsMkfsWithTheSafeProfile(t *testing.T) {
	for fs, mkfs := range map[Type]string{
		TypeExt2:  "mkfs.ext2 -b 4096 -E nodiscard -F -m0 /dev/loop0",
		TypeExt3:  "mkfs.ext3 -b 4096 -E nodiscard -F -m0 /dev/loop0",
		TypeExt4:  "mkfs.ext4 -b 4096 -E nodiscard -F -m0 /dev/loop0",
		TypeXFS:   "mkfs.xfs -K -q -f /dev/loop0",
		TypeBtrfs: "mkfs.btrfs -K /dev/loop0",
	} {
		t.Run(string(fs), func(t *testing.T) {
			r := newFormatTest(t)
			if err := r.format(t.Context(), fs); err != nil {
				t.Fatal(err)
			}
			if len(r.commands) != 2 || !strings.HasPrefix(r.commands[0], "blkid ") || r.commands[1] != mkfs {
				t.Errorf("ran %q, want blkid and %q", r.commands, mkfs)
			}
			if r.hasMarker(t) {
				t.Error("the marker was not removed")
			}
			if len(r.kernel.calls) != 0 {
				t.Errorf("Format wrote to a blank device: %q", r.kernel.calls)
			}
			// A second Format has nothing to do.
			if err := r.format(t.Context(), fs); err != nil || len(r.commands) != 2 {
				t.Errorf("second Format: %v, ran %q; want nothing to do", err, r.commands)
			}
		})
	}
	r := newFormatTest(t)
	if err := r.format(t.Context(), TypeExt4, "-m", "3"); err != nil ||
		r.commands[1] != "mkfs.ext4 -b 4096 -E nodiscard -m 3 -F /dev/loop0" {
		t.Errorf("with the option -m: %v, ran %q", err, r.commands)
	}
}

// TestFormatRefusesADeviceThatIsNotBlank checks that nothing is written, and that no
// program but blkid is run.
func TestFormatRefusesADeviceThatIsNotBlank(t *testing.T) {
	now := time.Now()
	readErr := func(r *formatTest) { r.kernel.errors["read"] = []error{unix.EIO} }
	for _, tc := range []struct {
		name   string
		setup  func(r *formatTest)
		kind   volume.Kind
		text   string
		marker *marker
	}{
		{
			"another filesystem", func(r *formatTest) { r.putFilesystem(TypeXFS) }, volume.KindPrecondition,
			"holds an xfs filesystem of 1 GiB", nil,
		},
		{
			"another filesystem, marked", func(r *formatTest) { r.putFilesystem(TypeXFS) }, volume.KindPrecondition,
			"does not replace one filesystem by another", &marker{TypeExt4, volume.GiB, now},
		},
		{
			"ext3 for ext4", func(r *formatTest) { r.putFilesystem(TypeExt3) }, volume.KindPrecondition,
			"holds an ext3 filesystem", nil,
		},
		{
			"LUKS", func(r *formatTest) { copy(r.device.head, "LUKS\xba\xbe") }, volume.KindPrecondition, "LUKS encryption",
			nil,
		},
		{
			"LUKS, marked", func(r *formatTest) { copy(r.device.head, "LUKS\xba\xbe") }, volume.KindPrecondition,
			"LUKS encryption", &marker{TypeExt4, volume.GiB, now},
		},
		{
			"unknown data", func(r *formatTest) { r.device.head[70000] = 1 }, volume.KindPrecondition,
			"unknown data; no marker on this node proves", nil,
		},
		{
			"unknown data, marked for xfs", func(r *formatTest) { r.device.head[70000] = 1 }, volume.KindPrecondition,
			"interrupted mkfs of xfs", &marker{TypeXFS, volume.GiB, now},
		},
		{
			"unknown data, marked for a larger device", func(r *formatTest) { r.device.head[70000] = 1 },
			volume.KindPrecondition, "on a larger device of 2 GiB", &marker{TypeExt4, 2 * volume.GiB, now},
		},
		{
			"unknown data, marked a day ago", func(r *formatTest) { r.device.head[70000] = 1 }, volume.KindPrecondition,
			"older than a day", &marker{TypeExt4, volume.GiB, now.Add(-statefile.MaxMarkerAge)},
		},
		{
			"unknown data, marked tomorrow", func(r *formatTest) { r.device.head[70000] = 1 }, volume.KindPrecondition,
			"older than a day", &marker{TypeExt4, volume.GiB, now.Add(statefile.MaxMarkerAge + time.Minute)},
		},
		{
			"unknown data, marked without a time", func(r *formatTest) { r.device.head[70000] = 1 }, volume.KindPrecondition,
			"older than a day", &marker{TypeExt4, volume.GiB, time.Time{}},
		},
		{
			"unfinished, not marked", func(r *formatTest) { copy(r.device.head, encodeXFS(1<<18, true)) },
			volume.KindPrecondition, "mkfs did not finish", nil,
		},
		{
			"damaged, marked",
			func(r *formatTest) { r.putFilesystem(TypeExt4); r.device.head[1024+32] = 0; r.device.head[1024+33] = 0 },
			volume.KindPrecondition, "a damaged superblock of ext4", &marker{TypeExt4, volume.GiB, now},
		},
		{"unreadable", readErr, volume.KindInternal, "cannot read device", nil},
		{"unreadable, marked", readErr, volume.KindInternal, "cannot read device", &marker{TypeExt4, volume.GiB, now}},
		{
			"blkid sees more", func(r *formatTest) { r.blkidOutput = "DEVNAME=/dev/loop0\nTYPE=vmfs\n" },
			volume.KindPrecondition,
			"blkid recognizes data", nil,
		},
		{"blkid fails", func(r *formatTest) { r.blkidErr = errors.New("blkid: no") }, volume.KindInternal, "blkid: no", nil},
		{
			"blkid is missing", func(r *formatTest) { r.blkidErr = utilexec.ErrExecutableNotFound }, volume.KindInternal,
			"blkid is not installed on this node", nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newFormatTest(t)
			tc.setup(r)
			if tc.marker != nil {
				if err := writeMarker(r.marker, *tc.marker); err != nil {
					t.Fatal(err)
				}
			}
			before := slices.Clone(r.device.head)
			volumetest.WantKind(t, r.format(t.Context(), TypeExt4), tc.kind, tc.text)
			if !slices.Equal(before, r.device.head) || len(r.kernel.calls) != 0 {
				t.Errorf("Format wrote to the device: %q", r.kernel.calls)
			}
			for _, c := range r.commands {
				if !strings.HasPrefix(c, "blkid ") {
					t.Errorf("ran %q", c)
				}
			}
		})
	}
	t.Run("invalid option", func(t *testing.T) {
		r := newFormatTest(t)
		volumetest.WantKind(t, r.format(t.Context(), TypeExt4, "-b", "1024"), volume.KindInvalid, "4096")
	})
	t.Run("marker damaged", func(t *testing.T) {
		r := newFormatTest(t)
		r.device.head[70000] = 1
		if err := os.WriteFile(r.marker, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		volumetest.WantKind(t, r.format(t.Context(), TypeExt4), volume.KindPrecondition, "is damaged or older",
			"wipefs -a /dev/loop0 && blkdiscard -z /dev/loop0")
		r.device.head[70000] = 0
		if err := r.format(t.Context(), TypeExt4); err != nil || r.hasMarker(t) {
			t.Errorf("Format of a blank device with a damaged marker: %v", err)
		}
	})
	t.Run("marker cannot be written", func(t *testing.T) {
		r := newFormatTest(t)
		r.marker = filepath.Join(r.marker, "missing", "marker")
		volumetest.WantKind(t, r.format(t.Context(), TypeExt4), volume.KindInternal, "marker of an unfinished mkfs",
			"state directory")
		if len(r.commands) != 0 {
			t.Errorf("ran %q, but the marker could not be written", r.commands)
		}
	})
}

// TestFormatFailsWhenTheDeviceShowsNoFilesystem has a mkfs that succeeds.
func TestFormatFailsWhenTheDeviceShowsNoFilesystem(t *testing.T) {
	for name, mkfs := range map[string]func(r *formatTest){
		"holds nothing":                        func(*formatTest) {},
		"holds an ext4 filesystem of 1 GiB":    func(r *formatTest) { r.putFilesystem(TypeExt4) },
		"filesystem whose mkfs did not finish": func(r *formatTest) { copy(r.device.head, encodeXFS(1<<18, true)) },
		"holds unknown data":                   func(r *formatTest) { r.device.head[9] = 1 },
		"a damaged superblock of xfs":          func(r *formatTest) { copy(r.device.head, encodeXFS(1<<62, false)) },
		"signatures of both xfs and btrfs": func(r *formatTest) {
			r.putFilesystem(TypeXFS)
			copy(r.device.head[btrfsOffset:], encodeBtrfs(1, btrfsMagic))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFormatTest(t)
			r.mkfs = func([]string) error { mkfs(r); return nil }
			volumetest.WantKind(t, r.format(t.Context(), TypeXFS), volume.KindInternal, name, "mkfs options")
			if !r.hasMarker(t) {
				t.Error("the marker was removed")
			}
		})
	}
}

// TestFormatKeepsTheMarkerOfADeviceInUse: the marker may be that of the mkfs which uses the
// device.
func TestFormatKeepsTheMarkerOfADeviceInUse(t *testing.T) {
	for fs, output := range map[Type]string{
		TypeExt4:  "mke2fs 1.47.0\n/dev/loop0 is apparently in use by the system; will not make a filesystem here!\n",
		TypeExt3:  "/dev/loop0 is mounted; will not make a filesystem here!\n",
		TypeXFS:   "mkfs.xfs: cannot open /dev/loop0: Device or resource busy\n",
		TypeBtrfs: "ERROR: unable to open /dev/loop0: Device or resource busy\n",
	} {
		r := newFormatTest(t)
		r.mkfsOutput = strings.Repeat("Allocating group tables: done\n", 1000) + output
		r.mkfs = func([]string) error { return testingexec.FakeExitError{Status: 1} }
		err := r.format(t.Context(), fs)
		volumetest.WantKind(t, err, volume.KindDeadline, "changed nothing on /dev/loop0, which is in use",
			"retries this automatically")
		if !r.hasMarker(t) {
			t.Error("the marker was removed")
		}
		if text := err.Error(); len(text) > 1500 || !strings.Contains(text, strings.TrimSpace(output[len(output)-20:])) {
			t.Errorf("want at most 1500 bytes with the last lines of the output, got %d bytes: %.200s", len(text), text)
		}
	}
}

// TestFormatTakesRandomBytesForBlankWhenEncrypted: unwritten sectors of an encrypted device
// read as random bytes.
func TestFormatTakesRandomBytesForBlankWhenEncrypted(t *testing.T) {
	sig := Signature{State: StateForeign, Content: unknownContent, IsRandom: true}
	req := FormatRequest{Device: newFakeKernel(t).addDevice(testDevice, 0, volume.GiB), Type: TypeXFS}
	volumetest.WantKind(t, checkOverwritable(req, sig, volume.GiB, time.Now()), volume.KindPrecondition, "random bytes")
	req.IsEncrypted = true
	if err := checkOverwritable(req, sig, volume.GiB, time.Now()); err != nil {
		t.Error(err)
	}
	sig.IsRandom = false
	volumetest.WantKind(t, checkOverwritable(req, sig, volume.GiB, time.Now()), volume.KindPrecondition, "unknown data")
}

func TestFormatLogsWhatItCleared(t *testing.T) {
	for what, isRandom := range map[string]bool{
		"the random bytes of a new encrypted volume": true,
		"the leftovers of an interrupted mkfs":       false,
	} {
		r := newFormatTest(t)
		r.device.bytes = uint64(len(r.device.head))
		r.device.head[70000] = 7
		if isRandom {
			_, _ = rand.NewChaCha8([32]byte{1}).Read(r.device.head)
		} else if err := writeMarker(r.marker, marker{TypeXFS, volume.Size(r.device.bytes), time.Now()}); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		r.system.log = slog.New(slog.NewTextHandler(&log, nil))
		r.mkfs = func([]string) error { return nil } // without a filesystem Format fails, after it has cleared the device
		_ = r.system.Format(t.Context(), FormatRequest{Device: r.device, Type: TypeXFS, Marker: r.marker, IsEncrypted: true})
		if text := log.String(); !strings.Contains(text, `content="`+what+`"`) || strings.Count(text, "cleared ") != 1 {
			t.Errorf("the log does not say once that the device was cleared of %s: %s", what, text)
		}
	}
}
