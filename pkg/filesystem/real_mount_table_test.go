package filesystem

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// wantMount returns the mount at path, and fails the test unless its mount point is want;
// empty: no mount.
func wantMount(t *testing.T, s *System, path, want string) Mount {
	t.Helper()
	m, mounted, err := s.FindMount(path)
	if err != nil || mounted != (want != "") || m.MountPoint != want {
		t.Fatalf("FindMount(%s) = %+v, %v, %v; want %q", path, m, mounted, err, want)
	}
	return m
}

func TestRealFindMountIsExactAndTopmost(t *testing.T) {
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
	if m.Source != a.device || m.FSType != "xfs" || m.Root != "/" || m.IsReadOnly() ||
		!slices.Contains(m.SuperOptions, "nouuid") {
		t.Errorf("mount %+v, want the whole xfs of %s, writable, with nouuid", m, a.device)
	}
	wantMount(t, s, link, target)
	wantMount(t, s, link+"/./", target)
	for _, path := range []string{inside, file, file + "/below", target + "-missing", filepath.Dir(target)} {
		wantMount(t, s, path, "")
	}
	b.mountAt(t, s, TypeXFS, inside)
	if m := wantMount(t, s, inside, inside); m.Source != b.device || m.IsReadOnly() {
		t.Errorf("mount %+v, want one of %s, writable", m, b.device)
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

// mountTmpfs mounts an empty tmpfs until the test ends, and returns its mount point.
func mountTmpfs(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	dir := t.TempDir()
	if err := errors.Join(unix.Mount("tmpfs", dir, "tmpfs", 0, ""),
		unix.Mount("", dir, "", unix.MS_PRIVATE, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// TestRealDeviceNodesAreReadFromInodes: the mount table shows a directory or a file of the
// same tmpfs, and a deleted one, as it shows a device node.
func TestRealDeviceNodesAreReadFromInodes(t *testing.T) {
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
			t.Errorf("mount of a %s: %+v; want a device node only for a node, and no stale one", name, m)
		}
		if name == "node" && !slices.Equal(mountPoints(t, s, path(name)), []string{target}) {
			t.Errorf("mounts of %s: %q", path(name), mountPoints(t, s, path(name)))
		}
		wantHiddenMount(t, s, target, path(name), name == "node")
		if err := os.Remove(path(name)); err != nil {
			t.Fatal(err)
		}
		if m := wantMount(t, s, target, target); m.IsDeviceNode() != (name == "node") ||
			m.IsStaleDeviceNode() != (name == "node") {
			t.Errorf("%s, removed: %+v", name, m)
		}
		unmount(t, s, target)
	}
}

// wantHiddenMount mounts a tmpfs over the directory of a bind mount, and checks that
// MountsOf still finds a device node.
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

// TestRealPropagates has paths that are missing, symbolic links, or mount points
// themselves.
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
			err := errors.Join(os.MkdirAll(path, 0o700), unix.Mount("tmpfs", path, "tmpfs", 0, ""),
				unix.Mount("", path, "", flag, ""))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
		}
		mount(base, flag)
		staged, link, dangling := filepath.Join(base, "staged"), filepath.Join(t.TempDir(), "link"), filepath.Join(base,
			"dangling")
		mount(staged, unix.MS_SHARED|unix.MS_PRIVATE^flag) // the other way round
		inner, direct := filepath.Join(base, "inner"), filepath.Join(t.TempDir(), "direct")
		if err := errors.Join(os.Mkdir(inner, 0o700), os.Symlink(inner, direct), os.Symlink(base, link),
			os.Symlink("/missing/for/sure", dangling)); err != nil {
			t.Fatal(err)
		}
		if m := wantMount(t, s, base, base); m.IsShared != shared {
			t.Errorf("mount %+v, want shared %t", m, shared)
		}
		for _, path := range []string{
			filepath.Join(base, "pod"), filepath.Join(base, "a/b/c"), staged,
			filepath.Join(link, "pod"), filepath.Join(link, "staged"), direct, dangling,
		} {
			if got, err := s.Propagates(path); err != nil || got != shared {
				t.Errorf("%s: %v, %v; want %v", path, got, err, shared)
			}
		}
	}
	if _, err := s.Propagates("/"); err != nil {
		t.Error(err)
	}
}
