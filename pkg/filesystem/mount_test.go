package filesystem

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestMountCallsTheKernel(t *testing.T) {
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

func TestMountExplainsTheErrno(t *testing.T) {
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
		{TypeXFS, unix.ENODEV, volume.KindPrecondition, "modprobe xfs"},
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
		volumetest.WantKind(t, err, tc.kind, "mount /dev/loop0 ("+string(tc.fs)+") at /t", tc.remedy)
		if !errors.Is(err, tc.errno) {
			t.Errorf("%v does not wrap %v", err, tc.errno)
		}
	}
}

// TestMountExplainsBlockSizes has filesystems whose blocks are smaller than those of the
// device, or larger than a page of the kernel.
func TestMountExplainsBlockSizes(t *testing.T) {
	small := ext4Spec(volume.GiB)
	small.logBlock = 0
	for _, tc := range []struct {
		name   string
		fs     Type
		errno  error
		change func(d *fakeDevice)
		text   string
	}{
		{
			"XFS with 512-byte sectors", TypeXFS, unix.ENOSYS, func(d *fakeDevice) { copy(d.head, encodeXFS(1<<18, false)) },
			"units of 512 B, which this device, with blocks of 4 KiB, cannot",
		},
		{
			"ext4 with 1 KiB blocks", TypeExt4, unix.EINVAL, func(d *fakeDevice) { small.writeTo(d) },
			"units of 1 KiB, which this device, with blocks of 4 KiB, cannot",
		},
		{"XFS with 64 KiB blocks", TypeXFS, unix.ENOSYS, func(d *fakeDevice) {
			copy(d.head, encodeXFS(1<<18, false))
			d.head[5], d.head[6], d.head[102], d.head[103] = 1, 0, 0x10, 0
		}, "blocks of 64 KiB, more than a page"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := newFakeKernel(t)
			d := k.addDevice(testDevice, 0, volume.GiB)
			d.block = 4096
			tc.change(d)
			k.errors["mount"] = []error{tc.errno}
			err := k.system().Mount(t.Context(), MountRequest{Device: d, Target: "/t", Type: tc.fs})
			volumetest.WantKind(t, err, volume.KindPrecondition, "mount /dev/loop0", tc.text)
			volumetest.WantKind(t, err, volume.KindPrecondition, "copy the data", "where the filesystem was made")
		})
	}
}

func TestMountReadOnlyExplainsAJournalWithChanges(t *testing.T) {
	k := newFakeKernel(t)
	k.addDevice(testDevice, 0, volume.GiB)
	k.errors["mount"] = []error{unix.EROFS}
	req := MountRequest{Device: k.device(), Target: "/t", Type: TypeXFS, Options: []string{"noatime,ro"}}
	err := k.system().Mount(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindPrecondition, "mount /dev/loop0 (xfs) at /t",
		"stage the volume once for writing")
}

func TestAwaitSyscallEndsWithItsContext(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := awaitSyscall(ctx, func() error { <-release; return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	called := false
	if err := awaitSyscall(ctx, func() error { called = true; return nil }); !errors.Is(err, context.DeadlineExceeded) ||
		called {
		t.Errorf("a call after the end of the context: %v, made %t; want no call", err, called)
	}
	k := newFakeKernel(t)
	err := k.system().mountError(t.Context(),
		MountRequest{Device: k.addDevice(testDevice, 0, volume.GiB), Target: "/t", Type: TypeXFS}, context.DeadlineExceeded)
	volumetest.WantKind(t, err, volume.KindDeadline, "mount /dev/loop0", "next retry")
	volumetest.WantKind(t, unmountError(Mount{MountPoint: "/t"}, context.Canceled), volume.KindCanceled, "unmount /t",
		"next retry")
}

func TestUnmountExplainsErrors(t *testing.T) {
	dir := resolvedTempDir(t)
	k := newFakeKernel(t)
	k.addDevice(testDevice, 0, volume.GiB)
	k.addMount(dir, testDevice, TypeXFS)
	s := k.system()
	m := k.table[0]
	fail := func(call string, err error, kind volume.Kind, remedy string) {
		t.Helper()
		k.errors[call] = []error{err}
		volumetest.WantKind(t, s.Unmount(t.Context(), m), kind, "unmount "+dir, remedy)
	}
	fail("unmount", unix.EBUSY, volume.KindDeadline, "find what uses the mount")
	fail("unmount", unix.EPERM, volume.KindInternal, "")
	fail("unmount", unix.EINVAL, volume.KindInternal, "")
	fail("unmount", nil, volume.KindInternal, "") // the mount table still has it
	fail("mounts", unix.ENOMEM, volume.KindInternal, "")
	fail("statMount", unix.EACCES, volume.KindInternal, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	volumetest.WantKind(t, s.Unmount(ctx, m), volume.KindCanceled, "unmount "+dir, "next retry")
	before := len(k.calls)
	k.mountsByPath[dir].st.mountID = 999
	volumetest.WantKind(t, s.Unmount(t.Context(), m), volume.KindPrecondition, "hides it", "unmount that first")
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
