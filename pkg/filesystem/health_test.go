package filesystem

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// TestGrowRefusesAFailedFilesystem has a filesystem that fills its device by its state in
// memory, but has failed before the growth or during it.
func TestGrowRefusesAFailedFilesystem(t *testing.T) {
	flag := func(_ *fakeKernel, m *fakeMount) {
		e := ext4Spec(2 * volume.GiB)
		e.state, e.errors = extStateValid|extStateError, 3
		e.writeTo(m.device)
	}
	super := func(option string) func(k *fakeKernel, _ *fakeMount) {
		return func(k *fakeKernel, _ *fakeMount) { k.table[0].SuperOptions = []string{option} }
	}
	for _, tc := range []struct {
		name   string
		fs     Type
		change func(k *fakeKernel, m *fakeMount)
		text   string
		remedy string
	}{
		{
			"ext with errors flagged", TypeExt4, flag,
			"errors in the filesystem at /staging (3 recorded): its size cannot be trusted", "e2fsck -f /dev/loop0",
		},
		{"ext emergency", TypeExt4, super("emergency_ro"), "has become read-only", "e2fsck -f /dev/loop0"},
		{"ext shut down", TypeExt4, super("shutdown"), "has shut down", "mounted again"},
		{"btrfs made read-only", TypeBtrfs, super("ro"), "has become read-only", "btrfs check /dev/loop0"},
	} {
		t.Run(tc.name+", full", func(t *testing.T) {
			k, s, m := newFakeFilesystem(t, tc.fs, 2*volume.GiB, 2*volume.GiB)
			tc.change(k, m)
			_, err := s.Grow(t.Context(), growRequest(s, 2*volume.GiB))
			volumetest.WantKind(t, err, volume.KindPrecondition, tc.text, tc.remedy)
		})
		t.Run(tc.name+", while it grew", func(t *testing.T) {
			k, s, m := newFakeFilesystem(t, tc.fs, volume.GiB, 2*volume.GiB)
			m.duringGrowth = func() {
				m.ignoresGrowth, m.btrfs.totalBytes = true, uint64(2*volume.GiB)
				ext4Spec(2 * volume.GiB).writeTo(m.device)
				tc.change(k, m)
			}
			_, err := s.Grow(t.Context(), growRequest(s, 2*volume.GiB))
			volumetest.WantKind(t, err, volume.KindPrecondition, tc.text, tc.remedy)
		})
	}
	k, s, _ := newFakeFilesystem(t, TypeExt4, 2*volume.GiB, 2*volume.GiB)
	k.table[0].Options, k.table[0].SuperOptions = []string{"ro"}, []string{"ro"}
	if g, err := s.Grow(t.Context(), growRequest(s, 2*volume.GiB)); err != nil || g.Method != MethodNone {
		t.Errorf("growth of a full filesystem that was mounted read-only: %+v, %v; want nothing to do", g, err)
	}
}

func TestCheckHealth(t *testing.T) {
	flag := func(_ *fakeKernel, m *fakeMount) {
		e := ext4Spec(volume.GiB)
		e.state, e.errors = extStateValid|extStateError, 3
		e.writeTo(m.device)
	}
	super := func(mount, super string) func(k *fakeKernel, _ *fakeMount) {
		return func(k *fakeKernel, _ *fakeMount) {
			k.table[0].Options, k.table[0].SuperOptions = []string{mount}, []string{super}
		}
	}
	force := func(call string) func(k *fakeKernel, _ *fakeMount) {
		return func(k *fakeKernel, _ *fakeMount) { k.errors[call] = []error{unix.EIO} }
	}
	for _, tc := range []struct {
		name   string
		fs     Type
		change func(k *fakeKernel, m *fakeMount)
		kind   volume.Kind
		text   string // empty: healthy
	}{
		{"XFS", TypeXFS, nil, 0, ""},
		{"ext3", TypeExt3, nil, 0, ""},
		{"ext4 mounted read-only", TypeExt4, super("ro", "ro"), 0, ""},
		{"ext4 through a read-only bind mount", TypeExt4, super("ro", "rw"), 0, ""},
		{"btrfs", TypeBtrfs, nil, 0, ""},
		{"btrfs mounted read-only", TypeBtrfs, super("ro", "ro"), 0, ""},
		{"XFS shut down", TypeXFS, force("openMount"), volume.KindPrecondition, "has shut down"},
		{"XFS shut down a moment later", TypeXFS, force("xfsGeometry"), volume.KindPrecondition, "has shut down"},
		{"ext4 flagged", TypeExt4, flag, volume.KindPrecondition, "errors in the filesystem at /staging (3 recorded)"},
		{"ext4 made read-only", TypeExt4, super("rw", "ro"), volume.KindPrecondition, "has become read-only"},
		{"ext4 emergency", TypeExt4, super("rw", "emergency_ro"), volume.KindPrecondition, "has become read-only"},
		{"ext4 shut down", TypeExt4, super("rw", "shutdown"), volume.KindPrecondition, "has shut down"},
		{"btrfs made read-only", TypeBtrfs, super("rw", "ro"), volume.KindPrecondition, "has become read-only"},
		{"btrfs EIO", TypeBtrfs, force("btrfsInfo"), volume.KindPrecondition, "has shut down"},
		{
			"not mounted", TypeXFS, func(_ *fakeKernel, m *fakeMount) { m.st.isRoot = false }, volume.KindPrecondition,
			"no filesystem is mounted",
		},
		{"device unreadable", TypeExt4, force("read"), volume.KindInternal, "cannot read device"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, s, m := newFakeFilesystem(t, tc.fs, volume.GiB, volume.GiB)
			if tc.change != nil {
				tc.change(k, m)
			}
			err := s.CheckHealth(t.Context(), k.device(), testMount)
			if tc.text == "" && err != nil {
				t.Errorf("CheckHealth = %v, want a healthy filesystem", err)
			}
			if tc.text != "" {
				volumetest.WantKind(t, err, tc.kind, tc.text)
			}
			if len(k.calls) != 0 {
				t.Errorf("CheckHealth changed something: %q", k.calls)
			}
		})
	}
}

func TestCheckHealthEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, s, _ := newFakeFilesystem(t, TypeXFS, volume.GiB, volume.GiB)
		release := make(chan struct{})
		defer close(release)
		s.kernel = hangingKernel{k, release, make(chan struct{}, 1)}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		volumetest.WantKind(t, s.CheckHealth(ctx, k.device(), testMount), volume.KindDeadline,
			"the filesystem at /staging does not answer", "still attached")
	})
}

// hangingKernel does not return from openMount before release is closed.
type hangingKernel struct {
	kernel
	release chan struct{}
	opened  chan struct{} // gets one value per call
}

func (hk hangingKernel) openMount(string) (mountHandle, error) {
	hk.opened <- struct{}{}
	<-hk.release
	return nil, unix.EIO
}

// TestRealCheckHealth checks a filesystem that is healthy, mounted read-only, shut down,
// and with an error recorded.
func TestRealCheckHealth(t *testing.T) {
	for _, fs := range []Type{TypeExt3, TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			skipWithoutFilesystem(t, fs)
			s, d := New(Options{}), newDisk(t, 320*volume.MiB)
			d.mkfs(t, fs)
			target := d.mount(t, s, fs, "ro")
			wantHealthy := func(when string) {
				t.Helper()
				if err := s.CheckHealth(t.Context(), d.open(t), target); err != nil {
					t.Errorf("%s: %v, want a healthy filesystem", when, err)
				}
			}
			wantHealthy("mounted read-only")
			unmount(t, s, target)
			d.mountAt(t, s, fs, target)
			wantHealthy("mounted")
			if err := writeSynced(filepath.Join(target, "file"), []byte("file")); err != nil {
				t.Fatal(err)
			}
			wantHealthy("after a write")
			switch fs {
			case TypeExt3, TypeExt4:
				d.triggerError(t)
				d.awaitErrors(t, s, target)
				volumetest.WantKind(t, s.CheckHealth(t.Context(), d.open(t), target), volume.KindPrecondition,
					"errors in the filesystem",
					"e2fsck -f")
			case TypeXFS:
				shutDownFilesystem(t, target)
				volumetest.WantKind(t, s.CheckHealth(t.Context(), d.open(t), target), volume.KindPrecondition, "has shut down",
					"mounted again")
			default: // TestRealGrowOnFullStorage breaks a btrfs
			}
		})
	}
}

// awaitErrors waits until the kernel has recorded an error: with errors=continue a worker
// of the kernel does so later.
func (d loopDisk) awaitErrors(t *testing.T, s *System, target string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dev := d.open(t)
	for s.CheckHealth(ctx, dev, target) == nil && operation.Sleep(ctx, time.Millisecond) == nil {
	}
}
