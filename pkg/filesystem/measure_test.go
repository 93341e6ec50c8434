package filesystem

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestMeasure(t *testing.T) {
	flagged := func(count uint32) func(k *fakeKernel, m *fakeMount) {
		return func(_ *fakeKernel, m *fakeMount) {
			e := ext4Spec(volume.GiB)
			e.state, e.errors = extStateValid|extStateError, count
			e.writeTo(m.device)
		}
	}
	super := func(option string) func(k *fakeKernel, m *fakeMount) {
		return func(k *fakeKernel, _ *fakeMount) { k.table[0].SuperOptions = []string{option} }
	}
	for _, tc := range []struct {
		name    string
		fs      Type
		device  volume.Size
		change  func(k *fakeKernel, m *fakeMount)
		want    Measurement
		failure string // empty: healthy
	}{
		{
			"XFS fills its device", TypeXFS, volume.GiB, nil,
			Measurement{Type: TypeXFS, Size: volume.GiB, FillsDevice: true},
			"",
		},
		{"XFS is smaller", TypeXFS, 2 * volume.GiB, nil, Measurement{Type: TypeXFS, Size: volume.GiB}, ""},
		{
			"XFS, a tail too short to use", TypeXFS, volume.GiB + 63*4096, nil,
			Measurement{Type: TypeXFS, Size: volume.GiB, FillsDevice: true},
			"",
		},
		{
			"XFS is larger", TypeXFS, volume.GiB - volume.MiB, nil,
			Measurement{Type: TypeXFS, Size: volume.GiB, FillsDevice: true},
			"",
		},
		{"ext3 is smaller", TypeExt3, 2 * volume.GiB, nil, Measurement{Type: TypeExt3, Size: volume.GiB}, ""},
		{
			"ext3 can never fill it", TypeExt3, 20 * volume.TiB, nil,
			Measurement{Type: TypeExt3, Size: volume.GiB, FormatLimit: 16 * volume.TiB},
			"",
		},
		{"ext3 at its limit", TypeExt3, 20 * volume.TiB, func(_ *fakeKernel, m *fakeMount) {
			ext3Spec(16*volume.TiB - 4096).writeTo(m.device)
		}, Measurement{Type: TypeExt3, Size: 16*volume.TiB - 4096, FillsDevice: true, FormatLimit: 16 * volume.TiB}, ""},
		{
			"ext4 with errors", TypeExt4, 2 * volume.GiB, flagged(3),
			Measurement{Type: TypeExt4, Size: volume.GiB, ErrorCount: 3},
			"3 recorded",
		},
		{
			"ext4 flagged without a count", TypeExt4, volume.GiB, flagged(0),
			Measurement{Type: TypeExt4, Size: volume.GiB, FillsDevice: true, ErrorCount: 1},
			"errors",
		},
		{
			"ext4 made read-only", TypeExt4, volume.GiB, super("emergency_ro"),
			Measurement{Type: TypeExt4, Size: volume.GiB, FillsDevice: true, BecameReadOnly: true},
			"has become read-only",
		},
		{
			"ext4 shut down", TypeExt4, volume.GiB, super("shutdown"),
			Measurement{Type: TypeExt4, Size: volume.GiB, FillsDevice: true, IsShutDown: true},
			"has shut down",
		},
		{
			"btrfs made read-only", TypeBtrfs, 2 * volume.GiB, super("ro"),
			Measurement{Type: TypeBtrfs, Size: volume.GiB, BecameReadOnly: true},
			"has become read-only",
		},
		{"btrfs mounted read-only", TypeBtrfs, volume.GiB, func(k *fakeKernel, _ *fakeMount) {
			k.table[0].Options, k.table[0].SuperOptions = []string{"ro"}, []string{"ro"}
		}, Measurement{Type: TypeBtrfs, Size: volume.GiB, FillsDevice: true}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, s, m := newFakeFilesystem(t, tc.fs, volume.GiB, tc.device)
			if tc.change != nil {
				tc.change(k, m)
			}
			got, err := s.Measure(t.Context(), k.device(), testMount)
			if err != nil {
				t.Fatal(err)
			}
			if (got.Failure != nil) != (tc.failure != "") {
				t.Errorf("failure %v, want %q", got.Failure, tc.failure)
			}
			if tc.failure != "" {
				volumetest.WantKind(t, got.Failure, volume.KindPrecondition, tc.failure)
			}
			got.Failure, tc.want.DeviceSize = nil, tc.device
			if got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
			if len(k.calls) != 0 {
				t.Errorf("Measure changed something: %q", k.calls)
			}
		})
	}
}

// TestMeasureReportsAFilesystemThatHasShutDown needs the mount table to find the device,
// because the filesystem does not answer.
func TestMeasureReportsAFilesystemThatHasShutDown(t *testing.T) {
	dir := resolvedTempDir(t)
	for call, fs := range map[string]Type{"openMount": TypeXFS, "xfsGeometry": TypeXFS, "btrfsInfo": TypeBtrfs} {
		k := newFakeKernel(t)
		d, other := k.addDevice(testDevice, 0, volume.GiB), k.addDevice("/dev/loop9", 9, volume.GiB)
		m := k.addMount(dir, testDevice, fs)
		m.info, m.btrfs = btrfsInfo{maxID: 1, devices: 1, sectorSize: 4096}, btrfsDevice{
			id: 1, totalBytes: 1 << 30,
			path: testDevice,
		}
		k.errors[call] = []error{unix.EIO}
		got, err := k.system().Measure(t.Context(), d, dir)
		if err != nil || !got.IsShutDown || got.Type != fs || got.DeviceSize != volume.GiB || got.FillsDevice {
			t.Errorf("%s fails: %+v, %v; want a %s of 1 GiB that has shut down", call, got, err, fs)
		}
		if fs == TypeXFS {
			volumetest.WantKind(t, got.Failure, volume.KindPrecondition, "has shut down", "mounted again")
		}
		k.errors["openMount"] = []error{unix.EIO}
		_, err = k.system().Measure(t.Context(), other, dir)
		volumetest.WantKind(t, err, volume.KindPrecondition, "not of the volume's device /dev/loop9")
	}
	// A disk that was removed has no size.
	k := newFakeKernel(t)
	d := k.addDevice(testDevice, 0, 0)
	k.addMount(dir, testDevice, TypeXFS)
	k.errors["openMount"] = []error{unix.EIO}
	if got, err := k.system().Measure(t.Context(), d, dir); err != nil || !got.IsShutDown {
		t.Errorf("removed disk: %+v, %v; want one that has shut down", got, err)
	}
}

func TestMeasureErrors(t *testing.T) {
	k, s, m := newFakeFilesystem(t, TypeExt4, volume.GiB, volume.GiB)
	k.errors["read"] = []error{unix.EIO}
	_, err := s.Measure(t.Context(), k.device(), testMount)
	volumetest.WantKind(t, err, volume.KindInternal, "cannot read device")
	k.errors["size"] = []error{unix.EIO}
	_, err = s.Measure(t.Context(), k.device(), testMount)
	volumetest.WantKind(t, err, volume.KindInternal, "read the size")
	_, err = s.Measure(t.Context(), k.addDevice("/dev/loop9", 9, volume.GiB), testMount)
	volumetest.WantKind(t, err, volume.KindPrecondition, "not of the volume's device /dev/loop9")
	m.st.isRoot = false
	_, err = s.Measure(t.Context(), k.device(), testMount)
	volumetest.WantKind(t, err, volume.KindPrecondition, "no filesystem is mounted")
}

// TestMeasureEndsWithItsContext also counts the threads that hang: one in all.
func TestMeasureEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, s, _ := newFakeFilesystem(t, TypeXFS, volume.GiB, volume.GiB)
		release, opened := make(chan struct{}), make(chan struct{}, 8)
		defer close(release)
		s.kernel = hangingKernel{k, release, opened}
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			_, err := s.Measure(ctx, k.device(), testMount)
			cancel()
			volumetest.WantKind(t, err, volume.KindDeadline, "the filesystem at /staging does not answer",
				"still attached")
		}
		if len(opened) != 1 {
			t.Errorf("%d reads are running, want 1", len(opened))
		}
	})
}

// TestRealMeasure measures a filesystem that fills its device, one whose device has grown,
// one that has shut down, and one with errors recorded.
func TestRealMeasure(t *testing.T) {
	for _, fs := range []Type{TypeExt3, TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			skipWithoutFilesystem(t, fs)
			s, d := New(Options{}), newDisk(t, 320*volume.MiB)
			d.mkfs(t, fs)
			target, dev := d.mount(t, s, fs), d.open(t)
			measure := func(want Measurement) {
				t.Helper()
				got, err := s.Measure(t.Context(), dev, target)
				if err != nil || (got.Failure != nil) != (want.IsShutDown || want.ErrorCount > 0) {
					t.Errorf("%v; failure %v", err, got.Failure)
				}
				if got.Failure = nil; got != want {
					t.Errorf("got %+v, want %+v", got, want)
				}
			}
			measure(Measurement{Type: fs, Size: 320 * volume.MiB, DeviceSize: 320 * volume.MiB, FillsDevice: true})
			d.resize(t, 640*volume.MiB)
			measure(Measurement{Type: fs, Size: 320 * volume.MiB, DeviceSize: 640 * volume.MiB})
			switch fs {
			case TypeExt3, TypeExt4:
				d.triggerError(t)
				d.awaitErrors(t, s, target)
				measure(Measurement{Type: fs, Size: 320 * volume.MiB, DeviceSize: 640 * volume.MiB, ErrorCount: 1})
			case TypeXFS:
				shutDownFilesystem(t, target)
				measure(Measurement{Type: TypeXFS, DeviceSize: 640 * volume.MiB, IsShutDown: true})
			default: // TestRealGrowOnFullStorage breaks a btrfs
			}
		})
	}
}
