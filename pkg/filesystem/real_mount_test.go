package filesystem

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func unmountOnce(t *testing.T, path string) {
	t.Helper()
	if err := unix.Unmount(path, 0); err != nil {
		t.Fatal(err)
	}
}

// TestRealUnmountRemovesOneMount unmounts a stack of mounts one by one.
func TestRealUnmountRemovesOneMount(t *testing.T) {
	skipWithoutFilesystem(t, TypeXFS)
	s, d := New(Options{}), newDisk(t, 320*volume.MiB)
	d.mkfs(t, TypeXFS)
	parent := d.mount(t, s, TypeXFS)
	target := filepath.Join(parent, "target")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := s.Bind(t.Context(), BindRequest{Source: parent, Target: target}); err != nil {
			t.Fatal(err)
		}
	}
	busy, err := os.Create(filepath.Join(target, "busy"))
	if err != nil {
		t.Fatal(err)
	}
	top := wantMount(t, s, target, target)
	volumetest.WantKind(t, s.Unmount(t.Context(), top), volume.KindDeadline, "unmount "+target, "find what uses the mount")
	wantMount(t, s, target, target)
	if err := busy.Close(); err != nil {
		t.Fatal(err)
	}
	var stack []Mount // topmost first
	for range 3 {
		m := wantMount(t, s, target, target)
		for _, covered := range stack {
			if err := s.Unmount(t.Context(), covered); err != nil { // is unmounted already
				t.Fatal(err)
			}
		}
		stack = append(stack, m)
		if err := s.Unmount(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	wantMount(t, s, target, "")
	wantMount(t, s, parent, parent)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	volumetest.WantKind(t, s.Unmount(ctx, wantMount(t, s, parent, parent)), volume.KindCanceled, "unmount "+parent,
		"next retry")
	wantMount(t, s, parent, parent)
}

// TestRealUnmountRefusesACoveredMount has a mount that is covered on its own path, and one
// that is hidden by a mount on a directory above.
func TestRealUnmountRefusesACoveredMount(t *testing.T) {
	s, base := New(Options{}), mountTmpfs(t)
	target := filepath.Join(base, "above", "target")
	mountOver := func(path string) Mount {
		t.Helper()
		if err := errors.Join(os.MkdirAll(path, 0o700), unix.Mount("tmpfs", path, "tmpfs", 0, "")); err != nil {
			t.Fatal(err)
		}
		return wantMount(t, s, path, path)
	}
	lower := mountOver(target)
	upper := mountOver(target)
	volumetest.WantKind(t, s.Unmount(t.Context(), lower), volume.KindPrecondition, "mounted on top", "unmount that first")
	above := mountOver(filepath.Dir(target))
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	volumetest.WantKind(t, s.Unmount(t.Context(), upper), volume.KindPrecondition, "hides it", "unmount that first")
	for _, m := range []Mount{above, upper, lower} {
		if m, mounted, err := s.FindMount(m.MountPoint); err != nil || !mounted {
			t.Errorf("after the refusals: %+v, mounted %t, %v; want it mounted", m, mounted, err)
		}
		if err := s.Unmount(t.Context(), m); err != nil {
			t.Error(err)
		}
	}
	wantMount(t, s, target, "")
}

func TestRealReadUsageIgnoresACoveringMount(t *testing.T) {
	skipWithoutFilesystem(t, TypeXFS)
	s, a, b := New(Options{}), newDisk(t, 320*volume.MiB), newDisk(t, volume.GiB)
	a.mkfs(t, TypeXFS)
	b.mkfs(t, TypeXFS)
	target := a.mount(t, s, TypeXFS)
	m := wantMount(t, s, target, target)
	if usage, err := s.ReadUsage(m); err != nil || usage.Total > 320*volume.MiB {
		t.Errorf("usage %+v, %v; want at most 320 MiB", usage, err)
	}
	b.mountAt(t, s, TypeXFS, target)
	_, err := s.ReadUsage(m)
	volumetest.WantKind(t, err, volume.KindPrecondition, "no filesystem is mounted at "+target)
	if usage, err := s.ReadUsage(wantMount(t, s, target, target)); err != nil || usage.Total < 500*volume.MiB {
		t.Errorf("usage %+v, %v; want at least 500 MiB", usage, err)
	}
}

// TestRealCloneIsMountedBesideItsOrigin copies an XFS with its UUID, and grows the copy.
func TestRealCloneIsMountedBesideItsOrigin(t *testing.T) {
	skipWithoutFilesystem(t, TypeXFS)
	s, origin, clone := New(Options{}), newDisk(t, 320*volume.MiB), newDisk(t, 512*volume.MiB)
	origin.mkfs(t, TypeXFS)
	mustRun(t, "dd", "if="+origin.device, "of="+clone.device, "bs=1M", "conv=sparse,fsync")
	a, b := origin.mount(t, s, TypeXFS), clone.mount(t, s, TypeXFS)
	if g := clone.grow(t, s, b); g.After != 512*volume.MiB {
		t.Errorf("growth %+v, want a size of 512 MiB", g)
	}
	if geo := mountedGeometry(t, s, origin.open(t), a); geo.size() != 320*volume.MiB {
		t.Errorf("the origin: %+v, want 320 MiB", geo)
	}
}

// TestRealMountExplainsARefusal has a device without a filesystem, an unknown option, and a
// device that has become smaller.
func TestRealMountExplainsARefusal(t *testing.T) {
	skipWithoutFilesystem(t, TypeExt4)
	s, d := New(Options{}), newDisk(t, 320*volume.MiB)
	req := MountRequest{Device: d.open(t), Target: t.TempDir(), Type: TypeExt4}
	volumetest.WantKind(t, s.Mount(t.Context(), req), volume.KindPrecondition, "mount "+d.device,
		"kernel refuses an option or the filesystem itself")
	d.mkfs(t, TypeExt4)
	req.Options = []string{"no-such-option"}
	volumetest.WantKind(t, s.Mount(t.Context(), req), volume.KindPrecondition, "no-such-option", "refuses an option")
	req.Options = nil
	d.resize(t, 300*volume.MiB)
	volumetest.WantKind(t, s.Mount(t.Context(), req), volume.KindPrecondition, "mount "+d.device)
	wantMount(t, s, req.Target, "")
}

// TestRealMountReadOnlyOfAJournalWithChanges: a read-only device rules out the replay of
// the journal, which a copy taken in use needs.
func TestRealMountReadOnlyOfAJournalWithChanges(t *testing.T) {
	for _, fs := range []Type{TypeExt4, TypeXFS} {
		t.Run(string(fs), func(t *testing.T) {
			skipWithoutFilesystem(t, fs)
			s, d, target := newMountedDisk(t, fs, 320*volume.MiB)
			if err := writeSynced(filepath.Join(target, "file"), []byte("file")); err != nil {
				t.Fatal(err)
			}
			shutDownFilesystem(t, target)
			unmount(t, s, target)
			t.Cleanup(func() { mustRun(t, "blockdev", "--setrw", d.device) }) // the flag outlasts the file of the loop device
			mustRun(t, "blockdev", "--setro", d.device)
			req := MountRequest{Device: d.open(t), Target: target, Type: fs, Options: []string{"ro"}}
			volumetest.WantKind(t, s.Mount(t.Context(), req), volume.KindPrecondition, "mount "+d.device,
				"stage the volume once for writing")
			mustRun(t, "blockdev", "--setrw", d.device)
			d.mountAt(t, s, fs, target)
			unmount(t, s, target)
			mustRun(t, "blockdev", "--setro", d.device)
			d.mountAt(t, s, fs, target, "ro")
		})
	}
}

// freeze freezes the filesystem at path (FIFREEZE, FITHAW of linux/fs.h).
func freeze(t *testing.T, path string) (thaw func()) {
	t.Helper()
	const fiFreeze, fiThaw = 0xc0045877, 0xc0045878
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var level int32
	if _, err := ioctl(fd, fiFreeze, &level); err != nil {
		t.Fatal(err)
	}
	return func() {
		_, err := ioctl(fd, fiThaw, &level)
		if closeErr := unix.Close(fd); err == nil {
			err = closeErr
		}
		if err != nil {
			t.Error("thaw: ", err)
		}
	}
}
