package filesystem

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestFindTopmost(t *testing.T) {
	mounts := []Mount{
		{ID: 1, Parent: 0, MountPoint: "/"},
		{ID: 5, Parent: 4, MountPoint: "/a", Source: "third"},
		{ID: 3, Parent: 1, MountPoint: "/a", Source: "first"},
		{ID: 4, Parent: 3, MountPoint: "/a", Source: "second"},
		{ID: 6, Parent: 5, MountPoint: "/a/b"},
	}
	if m, ok := findMount(mounts, mountStat{}, "/a"); !ok || m.Source != "third" {
		t.Errorf("topmost mount %+v, %t; want the third", m, ok)
	}
	if m, ok := findMount(mounts, mountStat{}, "/a/c"); ok {
		t.Errorf("%+v for a directory inside a mount", m)
	}
}

func TestFindMountWithoutMountIDs(t *testing.T) {
	dir := resolvedTempDir(t)
	k := newFakeKernel(t)
	k.addDevice(testDevice, 0, volume.GiB)
	m := k.addMount(dir, testDevice, TypeXFS)
	s := k.system()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	wantFound := func(what, path string, want bool) {
		t.Helper()
		got, mounted, err := s.FindMount(path)
		if err != nil || mounted != want || want && got.MountPoint != dir {
			t.Errorf("%s: %+v, mounted %t, %v; want mounted %t", what, got, mounted, err, want)
		}
	}
	wantFound("mount", dir, true)
	wantFound("symbolic link", link, true)
	m.st.isRoot = false
	wantFound("no mount root", dir, false)
	m.st.mountID = 0 // a kernel before 5.8
	wantFound("old kernel", dir, true)
	k.errors["statMount"] = []error{unix.EIO}
	wantFound("shut down", dir, true)
	wantFound("missing", filepath.Join(dir, "missing"), false)
	m.st = mountStat{mountID: 999, isRoot: true}
	wantFound("unmounted in between", dir, false)
	k.errors["mounts"] = []error{unix.ENOMEM}
	_, _, err := s.FindMount(dir)
	volumetest.WantKind(t, err, volume.KindInternal, "mount table")
	k.errors["statMount"] = []error{unix.EACCES}
	_, _, err = s.FindMount(dir)
	volumetest.WantKind(t, err, volume.KindInternal, "check what is mounted at "+dir)
}

func TestPropagatesWithoutMountIDs(t *testing.T) {
	dir := resolvedTempDir(t)
	k := newFakeKernel(t)
	k.addDevice(testDevice, 0, volume.GiB)
	m := k.addMount(dir, testDevice, TypeXFS)
	m.st.mountID = 0
	for _, shared := range []bool{true, false} {
		k.table = []Mount{{ID: 1, MountPoint: "/", IsShared: !shared}, {ID: 5, Parent: 1, MountPoint: dir, IsShared: shared}}
		if got, err := k.system().Propagates(filepath.Join(dir, "pod")); err != nil || got != shared {
			t.Errorf("Propagates = %t, %v; want %t", got, err, shared)
		}
	}
	k.table = nil
	_, err := k.system().Propagates(filepath.Join(dir, "pod"))
	volumetest.WantKind(t, err, volume.KindInternal, "is not in the mount table")
	m.st.mountID = 9
	_, err = k.system().Propagates(filepath.Join(dir, "pod"))
	volumetest.WantKind(t, err, volume.KindInternal, "is not in the mount table")
	k.errors["mounts"] = []error{unix.ENOMEM}
	_, err = k.system().Propagates(filepath.Join(dir, "pod"))
	volumetest.WantKind(t, err, volume.KindInternal, "mount table")
	k.errors["statMount"] = []error{unix.EIO}
	_, err = k.system().Propagates(filepath.Join(dir, "pod"))
	volumetest.WantKind(t, err, volume.KindInternal, "find the mount that contains "+dir)
}
