package filesystem

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// wantMount looks a path up and fails the test when the answer is not the wanted
// mount point; empty: no mount.
func wantMount(t *testing.T, s *System, path, want string) Mount {
	t.Helper()
	m, mounted, err := s.FindMount(path)
	if err != nil || mounted != (want != "") || m.MountPoint != want {
		t.Fatalf("FindMount(%s) = %+v, %v, %v; want %q", path, m, mounted, err, want)
	}
	return m
}

// TestRealFindMount: exact, topmost, through links, never the parent.
func TestRealFindMount(t *testing.T) {
	skipWithoutFilesystem(t, TypeXFS)
	s, a, b := New(Options{}), newDisk(t, 320*volume.MiB), newDisk(t, 320*volume.MiB)
	a.mkfs(t, TypeXFS)
	b.mkfs(t, TypeXFS)
	target := a.mount(t, s, TypeXFS)
	inside, file := filepath.Join(target, "dir"), filepath.Join(target, "file")
	if err := os.Mkdir(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	m := wantMount(t, s, target, target)
	if m.Source != a.device || m.FSType != "xfs" || m.Root != "/" || m.IsReadOnly() || !slices.Contains(m.SuperOptions, "nouuid") {
		t.Errorf("%+v", m)
	}
	wantMount(t, s, link, target)
	wantMount(t, s, link+"/./", target)
	for _, path := range []string{inside, file, file + "/below", target + "-missing", filepath.Dir(target)} {
		wantMount(t, s, path, "")
	}
	b.mountAt(t, s, TypeXFS, inside)
	if m := wantMount(t, s, inside, inside); m.Source != b.device || m.IsReadOnly() {
		t.Errorf("%+v", m)
	}
	// A mount stacked on target hides the one below it.
	b.mountAt(t, s, TypeXFS, target)
	if m := wantMount(t, s, target, target); m.Source != b.device {
		t.Errorf("not the topmost: %+v", m)
	}
	wantMount(t, s, inside, "")
	mounts, err := s.MountsOf(t.Context(), b.open(t).Number())
	if err != nil || len(mounts) != 2 {
		t.Errorf("mounts of %s: %+v, %v", b.device, mounts, err)
	}
	unmountOnce(t, target)
	wantMount(t, s, inside, inside)
	unmount(t, s, inside)
	wantMount(t, s, inside, "")
}

func unmountOnce(t *testing.T, path string) {
	t.Helper()
	if err := unix.Unmount(path, 0); err != nil {
		t.Fatal(err)
	}
}

// TestRealUnmount: one mount of those that are stacked on a path, and nothing
// else; what is busy or covered says so.
func TestRealUnmount(t *testing.T) {
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
	wantError(t, s.Unmount(t.Context(), top), volume.KindDeadline, "unmount "+target, "files open")
	wantMount(t, s, target, target)
	if err := busy.Close(); err != nil {
		t.Fatal(err)
	}
	var stack []Mount // from the top
	for range 3 {
		m := wantMount(t, s, target, target)
		for _, covered := range stack {
			if err := s.Unmount(t.Context(), covered); err != nil { // is gone already
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
	wantError(t, s.Unmount(ctx, wantMount(t, s, parent, parent)), volume.KindCanceled, "unmount "+parent, "next retry")
	wantMount(t, s, parent, parent)
}

// mountTmpfs mounts an empty tmpfs.
func mountTmpfs(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	dir := t.TempDir()
	if err := errors.Join(unix.Mount("tmpfs", dir, "tmpfs", 0, ""), unix.Mount("", dir, "", unix.MS_PRIVATE, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// TestRealUnmountOfACoveredMount: what another mount covers, on its path or on
// a directory above, is left alone, and so is what covers it.
func TestRealUnmountOfACoveredMount(t *testing.T) {
	s, base := New(Options{}), mountTmpfs(t)
	target := filepath.Join(base, "above", "target")
	over := func(path string) Mount {
		t.Helper()
		if err := errors.Join(os.MkdirAll(path, 0o700), unix.Mount("tmpfs", path, "tmpfs", 0, "")); err != nil {
			t.Fatal(err)
		}
		return wantMount(t, s, path, path)
	}
	lower := over(target)
	upper := over(target)
	wantError(t, s.Unmount(t.Context(), lower), volume.KindPrecondition, "mounted on top", "unmount that first")
	above := over(filepath.Dir(target))
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	wantError(t, s.Unmount(t.Context(), upper), volume.KindPrecondition, "hides it", "unmount that first")
	for _, m := range []Mount{above, upper, lower} {
		if m, mounted, err := s.FindMount(m.MountPoint); err != nil || !mounted {
			t.Errorf("%+v, %v, %v", m, mounted, err)
		}
		if err := s.Unmount(t.Context(), m); err != nil {
			t.Error(err)
		}
	}
	wantMount(t, s, target, "")
}

// TestRealNodesAreInodes: a mount is a device node if its inode is one. The
// mount table shows a directory or a file of the same tmpfs, and a deleted
// one, just so.
func TestRealNodesAreInodes(t *testing.T) {
	s, dev, targets := New(Options{}), mountTmpfs(t), mountTmpfs(t)
	want := blockdev.DeviceNumber{Major: 240, Minor: 7} // LOCAL/EXPERIMENTAL USE
	path := func(name string) string { return filepath.Join(dev, name) }
	err := errors.Join(os.Mkdir(path("dir"), 0o700), os.WriteFile(path("file"), nil, 0o600),
		unix.Mknod(path("char"), unix.S_IFCHR|0o600, int(unix.Mkdev(want.Major, want.Minor))),
		unix.Mknod(path("node"), unix.S_IFBLK|0o600, int(unix.Mkdev(want.Major, want.Minor))))
	if errors.Is(err, unix.EPERM) {
		t.Skip("needs device nodes")
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dir", "file", "char", "node"} {
		target := filepath.Join(targets, name)
		err := os.WriteFile(target, nil, 0o600)
		if name == "dir" {
			err = errors.Join(os.Remove(target), os.Mkdir(target, 0o700))
		}
		if err := errors.Join(err, s.Bind(t.Context(), BindRequest{Source: path(name), Target: target})); err != nil {
			t.Fatal(err)
		}
		if m := wantMount(t, s, target, target); m.IsDeviceNode() != (name == "node") || m.IsStaleDeviceNode() {
			t.Errorf("%s: %+v", name, m)
		}
		if name == "node" && !slices.Equal(mountPoints(t, s, path(name)), []string{target}) {
			t.Errorf("mounts of %s: %q", path(name), mountPoints(t, s, path(name)))
		}
		wantHiddenMount(t, s, target, path(name), name == "node")
		if err := os.Remove(path(name)); err != nil {
			t.Fatal(err)
		}
		if m := wantMount(t, s, target, target); m.IsDeviceNode() != (name == "node") || m.IsStaleDeviceNode() != (name == "node") {
			t.Errorf("%s, removed: %+v", name, m)
		}
		unmount(t, s, target)
	}
}

// wantHiddenMount mounts something over the directory of a bind mount: MountsOf finds a
// node there all the same.
func wantHiddenMount(t *testing.T, s *System, target, source string, node bool) {
	t.Helper()
	dir := filepath.Dir(target)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unmountOnce(t, dir)
	if node && !slices.Equal(mountPoints(t, s, source), []string{target}) {
		t.Errorf("hidden mounts of %s: %q", source, mountPoints(t, s, source))
	}
}

// mountPoints returns where the device, or a node of it, is mounted.
func mountPoints(t *testing.T, s *System, device string) []string {
	t.Helper()
	number, err := s.kernel.deviceNumber(device)
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := s.MountsOf(t.Context(), number)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, m := range mounts {
		list = append(list, m.MountPoint)
	}
	slices.Sort(list)
	return list
}

// TestRealStatsOfOneMount: what covers a mount is never counted for it.
func TestRealStatsOfOneMount(t *testing.T) {
	skipWithoutFilesystem(t, TypeXFS)
	s, a, b := New(Options{}), newDisk(t, 320*volume.MiB), newDisk(t, volume.GiB)
	a.mkfs(t, TypeXFS)
	b.mkfs(t, TypeXFS)
	target := a.mount(t, s, TypeXFS)
	m := wantMount(t, s, target, target)
	if usage, err := s.ReadUsage(m); err != nil || usage.Total > 320*volume.MiB {
		t.Errorf("%+v, %v", usage, err)
	}
	b.mountAt(t, s, TypeXFS, target)
	_, err := s.ReadUsage(m)
	wantError(t, err, volume.KindPrecondition, "no filesystem is mounted at "+target, "")
	if usage, err := s.ReadUsage(wantMount(t, s, target, target)); err != nil || usage.Total < 500*volume.MiB {
		t.Errorf("%+v, %v", usage, err)
	}
}

// TestRealBind: flags of the source stay, those asked for are added, and raw
// devices can be bound to a file.
func TestRealBind(t *testing.T) {
	skipWithoutFilesystem(t, TypeXFS)
	s, d := New(Options{}), newDisk(t, 320*volume.MiB)
	d.mkfs(t, TypeXFS)
	staging := d.mount(t, s, TypeXFS, "nosuid", "nodev", "noatime")
	target := t.TempDir()
	if err := s.Bind(t.Context(), BindRequest{Source: staging, Target: target, Options: []string{"ro", "noexec"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, s, target) })
	m := wantMount(t, s, target, target)
	for _, want := range []string{"ro", "nosuid", "nodev", "noexec", "noatime"} {
		if !slices.Contains(m.Options, want) {
			t.Errorf("%s is missing in %q", want, m.Options)
		}
	}
	if m.IsFilesystemReadOnly() || wantMount(t, s, staging, staging).IsReadOnly() {
		t.Error("the filesystem itself has become read-only")
	}
	node := filepath.Join(t.TempDir(), "node")
	if err := os.WriteFile(node, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Bind(t.Context(), BindRequest{Source: d.device, Target: node, Options: []string{"ro"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, s, node) })
	if m := wantMount(t, s, node, node); !slices.Contains(m.Options, "ro") {
		t.Errorf("a device node asked for read-only: %+v", m)
	}
	want := []string{staging, target, node}
	slices.Sort(want)
	if got := mountPoints(t, s, d.device); !slices.Equal(got, want) {
		t.Errorf("mounts of %s: %q; want %q", d.device, got, want)
	}
	unmount(t, s, node)
	wantMount(t, s, node, "")
}

// TestRealBindAtomic: below a shared mount, as kubelet's directory is, the
// mount is made in one step (nothing is remounted), is passed on to the other
// peers with its flags, and a second one stacks upon it.
func TestRealBindAtomic(t *testing.T) {
	base, peer, source := t.TempDir(), t.TempDir(), t.TempDir()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(unix.Mount("tmpfs", base, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(base, unix.MNT_DETACH) })
	must(unix.Mount("", base, "", unix.MS_SHARED, ""))
	must(unix.Mount(base, peer, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(peer, unix.MNT_DETACH) })
	must(os.Mkdir(filepath.Join(base, "pod"), 0o700))
	target := filepath.Join(base, "pod")
	s := New(Options{})
	s.kernel = bindOnlyKernel{linuxKernel{}, t}
	for range 2 {
		must(s.Bind(t.Context(), BindRequest{Source: source, Target: target, Options: []string{"ro", "nosuid"}}))
	}
	for _, path := range []string{target, filepath.Join(peer, "pod")} {
		if m := wantMount(t, s, path, path); !slices.Contains(m.Options, "ro") || !slices.Contains(m.Options, "nosuid") {
			t.Errorf("%+v", m)
		}
	}
	if err := os.WriteFile(filepath.Join(target, "x"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write: %v", err)
	}
	must(os.WriteFile(filepath.Join(source, "x"), nil, 0o600))
	unmount(t, s, target)
	wantMount(t, s, filepath.Join(peer, "pod"), "")
}

// TestRealPropagates: by what contains the path, which may be missing, a link
// or a mount itself.
func TestRealPropagates(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	s := New(Options{})
	for _, shared := range []bool{true, false} {
		base, flag := t.TempDir(), uintptr(unix.MS_PRIVATE)
		if shared {
			flag = unix.MS_SHARED
		}
		mount := func(path string, flag uintptr) {
			t.Helper()
			err := errors.Join(os.MkdirAll(path, 0o700), unix.Mount("tmpfs", path, "tmpfs", 0, ""), unix.Mount("", path, "", flag, ""))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
		}
		mount(base, flag)
		staged, link, dangling := filepath.Join(base, "staged"), filepath.Join(t.TempDir(), "link"), filepath.Join(base, "dangling")
		mount(staged, unix.MS_SHARED|unix.MS_PRIVATE^flag) // the other way round
		inner, direct := filepath.Join(base, "inner"), filepath.Join(t.TempDir(), "direct")
		if err := errors.Join(os.Mkdir(inner, 0o700), os.Symlink(inner, direct), os.Symlink(base, link), os.Symlink("/missing/for/sure", dangling)); err != nil {
			t.Fatal(err)
		}
		if m := wantMount(t, s, base, base); m.IsShared != shared {
			t.Errorf("%+v", m)
		}
		for _, path := range []string{filepath.Join(base, "pod"), filepath.Join(base, "a/b/c"), staged, filepath.Join(link, "pod"), filepath.Join(link, "staged"), direct, dangling} {
			if got, err := s.Propagates(path); err != nil || got != shared {
				t.Errorf("%s: %v, %v; want %v", path, got, err, shared)
			}
		}
	}
	if _, err := s.Propagates("/"); err != nil {
		t.Error(err)
	}
}

// bindOnlyKernel is a kernel whose mount(2) must not be used.
type bindOnlyKernel struct {
	linuxKernel
	t *testing.T
}

func (bk bindOnlyKernel) mount(source, target, _ string, flags uintptr, _ string) error {
	bk.t.Errorf("mount(%s, %s, %#x): a bind mount must be complete from the start", source, target, flags)
	return unix.EPERM
}

// TestRealClone: a copy of an XFS, with the same UUID, is mounted beside its
// origin, and each grows on its own device.
func TestRealClone(t *testing.T) {
	skipWithoutFilesystem(t, TypeXFS)
	s, origin, clone := New(Options{}), newDisk(t, 320*volume.MiB), newDisk(t, 512*volume.MiB)
	origin.mkfs(t, TypeXFS)
	mustRun(t, "dd", "if="+origin.device, "of="+clone.device, "bs=1M", "conv=sparse,fsync")
	a, b := origin.mount(t, s, TypeXFS), clone.mount(t, s, TypeXFS)
	if g := clone.grow(t, s, b); g.After != 512*volume.MiB {
		t.Errorf("%+v", g)
	}
	if geo, err := s.Geometry(t.Context(), origin.open(t), a); err != nil || geo.Size() != 320*volume.MiB {
		t.Errorf("the origin: %+v, %v", geo, err)
	}
}

// TestRealMountRefused: a device without a filesystem, and one without its
// end.
func TestRealMountRefused(t *testing.T) {
	skipWithoutFilesystem(t, TypeExt4)
	s, d := New(Options{}), newDisk(t, 320*volume.MiB)
	req := MountRequest{Device: d.open(t), Target: t.TempDir(), Type: TypeExt4}
	wantError(t, s.Mount(t.Context(), req), volume.KindPrecondition, "mount "+d.device, "kernel refuses an option or the filesystem itself")
	d.mkfs(t, TypeExt4)
	req.Options = []string{"no-such-option"}
	wantError(t, s.Mount(t.Context(), req), volume.KindPrecondition, "no-such-option", "refuses an option")
	req.Options = nil
	d.resize(t, 300*volume.MiB)
	wantError(t, s.Mount(t.Context(), req), volume.KindPrecondition, "mount "+d.device, "")
	wantMount(t, s, req.Target, "")
}

// TestRealMountReadOnlyDirty: the journal of a copy taken in use must be
// replayed, which a read-only device rules out.
func TestRealMountReadOnlyDirty(t *testing.T) {
	for _, fs := range []Type{TypeExt4, TypeXFS} {
		t.Run(string(fs), func(t *testing.T) {
			skipWithoutFilesystem(t, fs)
			s, d := New(Options{}), newDisk(t, 320*volume.MiB)
			d.mkfs(t, fs)
			target := d.mount(t, s, fs)
			if err := writeSynced(filepath.Join(target, "file"), []byte("file")); err != nil {
				t.Fatal(err)
			}
			shutDownFilesystem(t, target)
			unmount(t, s, target)
			t.Cleanup(func() { mustRun(t, "blockdev", "--setrw", d.device) }) // it would stay with the loop device
			mustRun(t, "blockdev", "--setro", d.device)
			req := MountRequest{Device: d.open(t), Target: target, Type: fs, Options: []string{"ro"}}
			wantError(t, s.Mount(t.Context(), req), volume.KindPrecondition, "mount "+d.device, "stage the volume once for writing")
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
