package filesystem

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

func TestParseMountFlags(t *testing.T) {
	for _, tc := range []struct {
		options []string
		flags   uintptr
		data    string
	}{
		{nil, 0, ""},
		{[]string{"defaults", "rw", "_netdev", "x-systemd.automount", "nofail"}, 0, ""},
		{[]string{"ro", "noatime"}, unix.MS_RDONLY | unix.MS_NOATIME, ""},
		{[]string{"ro,rw"}, 0, ""},
		{[]string{"rw", "ro"}, unix.MS_RDONLY, ""},
		{[]string{"relatime", "noatime"}, unix.MS_NOATIME, ""},
		{[]string{"nosuid,nodev,noexec", "discard", "errors=remount-ro"}, unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "discard,errors=remount-ro"},
		{[]string{`context="system_u:object_r:container_file_t:s0:c1,c2"`, "sync"}, unix.MS_SYNCHRONOUS, `context="system_u:object_r:container_file_t:s0:c1,c2"`},
		{[]string{"", "comment=ro", "nouuid"}, 0, "nouuid"},
	} {
		if flags, data := parseMountOptions(tc.options); flags != tc.flags || data != tc.data {
			t.Errorf("%q: %#x %q, want %#x %q", tc.options, flags, data, tc.flags, tc.data)
		}
	}
}

func TestKeptFlags(t *testing.T) {
	st := int64(unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC | unix.ST_NOATIME | unix.ST_NODIRATIME | unix.ST_RELATIME | 0x2000 | 0x20) // 0x2000 is ST_NOSYMFOLLOW
	want := uintptr(unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME | unix.MS_NOSYMFOLLOW)
	if got := remountFlags(st); got != want {
		t.Errorf("%#x, want %#x", got, want)
	}
	if got := remountFlags(0); got != 0 {
		t.Errorf("%#x", got)
	}
}

// TestStructSizes: the kernel writes as much as the ioctl number says.
func TestStructSizes(t *testing.T) {
	for _, tc := range []struct {
		name    string
		request uint
		size    uintptr
	}{
		{"EXT4_IOC_RESIZE_FS", ext4IOCResizeFS, 8},
		{"XFS_IOC_FSGEOMETRY", xfsIOCFSGeometry, unsafe.Sizeof(xfsGeometry{})},
		{"XFS_IOC_FSGROWFSDATA", xfsIOCGrowFSData, unsafe.Sizeof(xfsGrowFSData{})},
		{"BTRFS_IOC_RESIZE", btrfsIOCResize, unsafe.Sizeof(btrfsVolArgs{})},
		{"BTRFS_IOC_DEV_INFO", btrfsIOCDevInfo, unsafe.Sizeof(btrfsDevInfoArgs{})},
		{"BTRFS_IOC_FS_INFO", btrfsIOCFSInfo, unsafe.Sizeof(btrfsInfo{})},
	} {
		if encoded := uintptr(tc.request >> 16 & 0x3FFF); encoded != tc.size {
			t.Errorf("%s: struct of %d bytes, the kernel expects %d", tc.name, tc.size, encoded)
		}
	}
}

func TestMountCall(t *testing.T) {
	k := newFakeKernel(t)
	k.addDevice(testDevice, 0, volume.GiB)
	for _, tc := range []struct {
		req  MountRequest
		want string
	}{
		{MountRequest{k.device(), "/t", TypeExt4, []string{"ro", "discard"}}, "mount /dev/loop0 /t ext4 0x1 discard"},
		{MountRequest{k.device(), "/t", TypeExt3, nil}, "mount /dev/loop0 /t ext3 0x0 "},
		{MountRequest{k.device(), "/t", TypeExt2, nil}, "mount /dev/loop0 /t ext4 0x0 "},
		{MountRequest{k.device(), "/t", TypeXFS, []string{"noatime"}}, "mount /dev/loop0 /t xfs 0x400 nouuid"},
		{MountRequest{k.device(), "/t", TypeBtrfs, nil}, "mount /dev/loop0 /t btrfs 0x0 "},
	} {
		k.calls = nil
		if err := k.system().Mount(t.Context(), tc.req); err != nil || !slices.Equal(k.calls, []string{tc.want}) {
			t.Errorf("%v, %q, want %q", err, k.calls, tc.want)
		}
	}
}

func TestMountErrors(t *testing.T) {
	for _, tc := range []struct {
		fs     Type
		errno  error
		kind   volume.Kind
		remedy string
	}{
		{TypeExt4, unix.EINVAL, volume.KindPrecondition, "kernel refuses an option or the filesystem itself"},
		{TypeExt4, unix.EUCLEAN, volume.KindPrecondition, "e2fsck -f /dev/loop0"},
		{TypeXFS, unix.EUCLEAN, volume.KindPrecondition, "xfs_repair /dev/loop0"},
		{TypeBtrfs, unix.EIO, volume.KindInternal, "btrfs check /dev/loop0"},
		{TypeXFS, unix.ENOSYS, volume.KindPrecondition, "kernel refuses an option or the filesystem itself"},
		{TypeXFS, unix.ENODEV, volume.KindPrecondition, "lacks xfs"},
		{TypeBtrfs, unix.EEXIST, volume.KindPrecondition, "same UUID"},
		{TypeExt4, unix.EROFS, volume.KindPrecondition, "newer kernel"},
		{TypeExt4, unix.EACCES, volume.KindPrecondition, "newer kernel"},
		{TypeExt4, unix.EBUSY, volume.KindDeadline, "uses the device"},
		{TypeExt4, unix.ENOMEM, volume.KindInternal, ""},
	} {
		k := newFakeKernel(t)
		k.addDevice(testDevice, 0, volume.GiB)
		k.errors["mount"] = []error{tc.errno}
		err := k.system().Mount(t.Context(), MountRequest{Device: k.device(), Target: "/t", Type: tc.fs})
		wantError(t, err, tc.kind, "mount /dev/loop0 ("+string(tc.fs)+") at /t", tc.remedy)
		if !errors.Is(err, tc.errno) {
			t.Errorf("%v hides %v", err, tc.errno)
		}
	}
}

// TestMountUnfitBlocks: a filesystem whose blocks are smaller than those of the
// device, or larger than a page of the kernel.
func TestMountUnfitBlocks(t *testing.T) {
	small := ext4Spec(volume.GiB)
	small.logBlock = 0
	for _, tc := range []struct {
		name  string
		fs    Type
		errno error
		put   func(d *fakeDevice)
		text  string
	}{
		{"XFS with 512-byte sectors", TypeXFS, unix.ENOSYS, func(d *fakeDevice) { copy(d.head, encodeXFS(1<<18, false)) }, "units of 512 B, which this device, with blocks of 4 KiB, cannot"},
		{"ext4 with 1 KiB blocks", TypeExt4, unix.EINVAL, func(d *fakeDevice) { small.put(d) }, "units of 1 KiB, which this device, with blocks of 4 KiB, cannot"},
		{"XFS with 64 KiB blocks", TypeXFS, unix.ENOSYS, func(d *fakeDevice) {
			copy(d.head, encodeXFS(1<<18, false))
			d.head[5], d.head[6], d.head[102], d.head[103] = 1, 0, 0x10, 0
		}, "blocks of 64 KiB, more than a page"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := newFakeKernel(t)
			d := k.addDevice(testDevice, 0, volume.GiB)
			d.block = 4096
			tc.put(d)
			k.errors["mount"] = []error{tc.errno}
			err := k.system().Mount(t.Context(), MountRequest{Device: d, Target: "/t", Type: tc.fs})
			wantError(t, err, volume.KindPrecondition, "mount /dev/loop0", tc.text)
			wantError(t, err, volume.KindPrecondition, "copy the data", "where the filesystem was made")
		})
	}
}

// TestMountReadOnlyDirty: what was asked for is no remedy.
func TestMountReadOnlyDirty(t *testing.T) {
	k := newFakeKernel(t)
	k.addDevice(testDevice, 0, volume.GiB)
	k.errors["mount"] = []error{unix.EROFS}
	err := k.system().Mount(t.Context(), MountRequest{Device: k.device(), Target: "/t", Type: TypeXFS, Options: []string{"noatime,ro"}})
	wantError(t, err, volume.KindPrecondition, "mount /dev/loop0 (xfs) at /t", "stage the volume once for writing")
}

// TestInterruptible: a system call that hangs does not hang the caller.
func TestInterruptible(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := awaitSyscall(ctx, func() error { <-release; return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	called := false
	if err := awaitSyscall(ctx, func() error { called = true; return nil }); !errors.Is(err, context.DeadlineExceeded) || called {
		t.Errorf("got %v; called after the end: %v", err, called)
	}
	k := newFakeKernel(t)
	err := k.system().mountError(t.Context(), MountRequest{Device: k.addDevice(testDevice, 0, volume.GiB), Target: "/t", Type: TypeXFS}, context.DeadlineExceeded)
	wantError(t, err, volume.KindDeadline, "mount /dev/loop0", "next retry")
	wantError(t, unmountError(Mount{MountPoint: "/t"}, context.Canceled), volume.KindCanceled, "unmount /t", "next retry")
}

// TestBind: one step, and nothing is ever seen without its flags.
func TestBind(t *testing.T) {
	for _, tc := range []struct {
		flags []string
		want  string
	}{
		{[]string{"ro", "ext4-data-is-ignored"}, "bind /staging /staging +0x1 -0x0"},
		{[]string{"ro", "nosuid", "nodev", "noexec", "nosymfollow", "noatime"}, "bind /staging /staging +0x20001f -0x70"},
		{[]string{"relatime", "nodiratime"}, "bind /staging /staging +0x80 -0x70"},
		{[]string{"strictatime"}, "bind /staging /staging +0x20 -0x70"},
		{nil, "mount /staging /staging  0x1000 "},
		{[]string{"rw"}, "mount /staging /staging  0x1000 "},
	} {
		k, s, _ := newFakeFilesystem(t, TypeXFS, volume.GiB, volume.GiB)
		err := s.Bind(t.Context(), BindRequest{Source: testMount, Target: testMount, Options: tc.flags})
		if err != nil || !slices.Equal(k.calls, []string{tc.want}) {
			t.Errorf("%q: %v, %q, want %q", tc.flags, err, k.calls, tc.want)
		}
	}
	k, s, _ := newFakeFilesystem(t, TypeXFS, volume.GiB, volume.GiB)
	k.errors["bind"] = []error{unix.ENOENT}
	err := s.Bind(t.Context(), BindRequest{Source: testMount, Target: testMount, Options: []string{"ro"}})
	wantError(t, err, volume.KindInternal, "no such file", "")
	if len(k.calls) != 1 {
		t.Errorf("%q", k.calls)
	}
}

// TestBindOldKernel: two steps, of which the second may fail.
func TestBindOldKernel(t *testing.T) {
	k, s, m := newFakeFilesystem(t, TypeXFS, volume.GiB, volume.GiB)
	m.flags = unix.ST_NOSUID | unix.ST_NODEV
	req := BindRequest{Source: testMount, Target: testMount, Options: []string{"ro", "ext4-data-is-ignored"}}
	k.errors["bind"] = slices.Repeat([]error{unix.ENOSYS, unix.EPERM, unix.EOPNOTSUPP}, 2)
	if err := s.Bind(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	// MS_BIND; then MS_REMOUNT|MS_BIND|MS_RDONLY|MS_NOSUID|MS_NODEV.
	if want := []string{"mount /staging /staging  0x1000 ", "mount  /staging  0x1027 "}; !slices.Equal(k.calls[1:], want) {
		t.Errorf("%q, want %q", k.calls, want)
	}
	k.calls, k.errors["mount"] = nil, []error{nil, unix.EPERM}
	wantError(t, s.Bind(t.Context(), req), volume.KindInternal, "set flags", "")
	if len(k.calls) != 4 || k.calls[3] != "unmount /staging" {
		t.Errorf("a bind mount without its flags stays: %q", k.calls)
	}
	k.errors["mount"], k.errors["unmount"] = []error{nil, unix.EPERM}, []error{unix.EBUSY}
	wantError(t, s.Bind(t.Context(), req), volume.KindDeadline, "removing the bind mount failed", "uses the target")
	k.calls, k.errors["mount"] = nil, []error{unix.ENOENT}
	wantError(t, s.Bind(t.Context(), req), volume.KindInternal, "no such file", "")
}

// TestTopmost is the way for kernels that do not tell mount ids.
func TestTopmost(t *testing.T) {
	mounts := []Mount{
		{ID: 1, Parent: 0, MountPoint: "/"},
		{ID: 5, Parent: 4, MountPoint: "/a", Source: "third"},
		{ID: 3, Parent: 1, MountPoint: "/a", Source: "first"},
		{ID: 4, Parent: 3, MountPoint: "/a", Source: "second"},
		{ID: 6, Parent: 5, MountPoint: "/a/b"},
	}
	if m, ok := findTopmost(mounts, "/a"); !ok || m.Source != "third" {
		t.Errorf("%+v, %v", m, ok)
	}
	if m, ok := findTopmost(mounts, "/a/c"); ok {
		t.Errorf("%+v for a directory inside a mount", m)
	}
}

func TestFindMountOldKernelAndDead(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	k := newFakeKernel(t)
	k.addDevice(testDevice, 0, volume.GiB)
	m := k.addMount(dir, testDevice, TypeXFS)
	s := k.system()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	find := func(what, path string, want bool) {
		t.Helper()
		got, mounted, err := s.FindMount(path)
		if err != nil || mounted != want || want && got.MountPoint != dir {
			t.Errorf("%s: %+v, %v, %v", what, got, mounted, err)
		}
	}
	find("mount", dir, true)
	find("symbolic link", link, true)
	m.st.isRoot = false
	find("no mount root", dir, false)
	m.st.mountID = 0 // a kernel before 5.8
	find("old kernel", dir, true)
	k.errors["statMount"] = []error{unix.EIO}
	find("shut down", dir, true)
	find("missing", filepath.Join(dir, "missing"), false)
	m.st = mountStat{mountID: 999, isRoot: true}
	find("gone in between", dir, false)
	k.errors["mounts"] = []error{unix.ENOMEM}
	_, _, err = s.FindMount(dir)
	wantError(t, err, volume.KindInternal, "mount table", "")
	k.errors["statMount"] = []error{unix.EACCES}
	_, _, err = s.FindMount(dir)
	wantError(t, err, volume.KindInternal, "check what is mounted at "+dir, "")
}

// TestPropagatesOldKernel: without mount ids the mount is found by its path.
func TestPropagatesOldKernel(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	k := newFakeKernel(t)
	k.addDevice(testDevice, 0, volume.GiB)
	m := k.addMount(dir, testDevice, TypeXFS)
	m.st.mountID = 0
	for _, shared := range []bool{true, false} {
		k.table = []Mount{{ID: 1, MountPoint: "/", IsShared: !shared}, {ID: 5, Parent: 1, MountPoint: dir, IsShared: shared}}
		if got, err := k.system().Propagates(filepath.Join(dir, "pod")); err != nil || got != shared {
			t.Errorf("%v, %v, want %v", got, err, shared)
		}
	}
	k.table = nil
	_, err = k.system().Propagates(filepath.Join(dir, "pod"))
	wantError(t, err, volume.KindInternal, "is not in the mount table", "")
	m.st.mountID = 9
	_, err = k.system().Propagates(filepath.Join(dir, "pod"))
	wantError(t, err, volume.KindInternal, "is not in the mount table", "")
	k.errors["mounts"] = []error{unix.ENOMEM}
	_, err = k.system().Propagates(filepath.Join(dir, "pod"))
	wantError(t, err, volume.KindInternal, "mount table", "")
	k.errors["statMount"] = []error{unix.EIO}
	_, err = k.system().Propagates(filepath.Join(dir, "pod"))
	wantError(t, err, volume.KindInternal, "find the mount that contains "+dir, "")
}

func TestUnmountErrors(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	k := newFakeKernel(t)
	k.addDevice(testDevice, 0, volume.GiB)
	k.addMount(dir, testDevice, TypeXFS)
	s := k.system()
	m := k.table[0]
	fail := func(call string, err error, kind volume.Kind, remedy string) {
		t.Helper()
		k.errors[call] = []error{err}
		wantError(t, s.Unmount(t.Context(), m), kind, "unmount "+dir, remedy)
	}
	fail("unmount", unix.EBUSY, volume.KindDeadline, "files open")
	fail("unmount", unix.EPERM, volume.KindInternal, "")
	fail("unmount", unix.EINVAL, volume.KindInternal, "")
	fail("unmount", nil, volume.KindInternal, "") // the mount table still has it
	fail("mounts", unix.ENOMEM, volume.KindInternal, "")
	fail("statMount", unix.EACCES, volume.KindInternal, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantError(t, s.Unmount(ctx, m), volume.KindCanceled, "unmount "+dir, "next retry")
	before := len(k.calls)
	k.dirs[dir].st.mountID = 999
	wantError(t, s.Unmount(t.Context(), m), volume.KindPrecondition, "hides it", "unmount that first")
	gone := m
	gone.ID = 998
	if err := s.Unmount(t.Context(), gone); err != nil || len(k.calls) != before {
		t.Errorf("a mount that is gone: %v, calls %q", err, k.calls[before:])
	}
	gone = m
	gone.Device.Minor++ // its id was given to another mount
	if err := s.Unmount(t.Context(), gone); err != nil || len(k.calls) != before {
		t.Errorf("a mount whose id is another's: %v, calls %q", err, k.calls[before:])
	}
}

func TestStats(t *testing.T) {
	k, s, _ := newFakeFilesystem(t, TypeXFS, volume.GiB, volume.GiB)
	want := Usage{Total: 1000 * 4096, Used: 400 * 4096, Available: 500 * 4096, Inodes: 100, InodesUsed: 10, InodesAvailable: 90}
	m := k.table[0]
	if got, err := s.ReadUsage(m); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	_, err := s.ReadUsage(Mount{MountPoint: "/missing"})
	wantError(t, err, volume.KindPrecondition, "no filesystem is mounted at /missing", "")
	k.errors["openMount"] = []error{unix.EIO}
	_, err = s.ReadUsage(m)
	wantError(t, err, volume.KindPrecondition, "shut down", "")
	k.errors["statfs"] = []error{unix.ENOMEM}
	_, err = s.ReadUsage(m)
	wantError(t, err, volume.KindInternal, "statfs "+testMount, "")
	m.ID++ // another mount covers it
	_, err = s.ReadUsage(m)
	wantError(t, err, volume.KindPrecondition, "no filesystem is mounted at "+testMount, "")
	k.dirs[testMount].st.mountID = 0 // a kernel before 5.8
	if got, err := s.ReadUsage(m); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	m.Device.Minor++
	_, err = s.ReadUsage(m)
	wantError(t, err, volume.KindPrecondition, "no filesystem is mounted at "+testMount, "")
}

func TestParseType(t *testing.T) {
	for _, name := range []string{"ext2", "ext3", " ext4", "XFS", "btrfs"} {
		if _, err := ParseType(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "ntfs", "ext5"} {
		_, err := ParseType(name)
		wantError(t, err, volume.KindInvalid, "not supported", "use one of")
	}
}

// TestGeometryUnmounted reads sizes from superblocks.
func TestGeometryUnmounted(t *testing.T) {
	for _, fs := range []Type{TypeExt2, TypeExt3, TypeExt4, TypeXFS, TypeBtrfs} {
		r := newFormatTest(t)
		r.putFilesystem(fs)
		if g, err := r.s.Geometry(t.Context(), r.device, ""); err != nil || g != (Geometry{Type: fs, BlockSize: 4096, Blocks: 1 << 18}) {
			t.Errorf("%+v, %v", g, err)
		}
	}
	r := newFormatTest(t)
	_, err := r.s.Geometry(t.Context(), r.device, "")
	wantError(t, err, volume.KindPrecondition, "holds no filesystem", "")
	r.k.errors["read"] = []error{unix.EIO}
	_, err = r.s.Geometry(t.Context(), r.device, "")
	wantError(t, err, volume.KindInternal, "cannot be read", "")
}
