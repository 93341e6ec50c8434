package filesystem

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

const (
	testDevice = "/dev/loop0"
	testMount  = "/staging"
)

// newFakeFilesystem returns a mounted filesystem of size from, on a device of size dev.
func newFakeFilesystem(t *testing.T, fs Type, from, dev volume.Size) (*fakeKernel, *System, *fakeMount) {
	t.Helper()
	k := newFakeKernel(t)
	d := k.addDevice(testDevice, 0, dev)
	m := k.addMount(testMount, testDevice, fs)
	switch fs {
	case TypeExt3:
		ext3Spec(from).writeTo(d)
	case TypeExt4:
		ext4Spec(from).writeTo(d)
	case TypeXFS:
		m.xfs = xfsGeometry{
			blockSize: 4096, agBlocks: uint32(from / 4096 / 4), agCount: 4, imaxpct: 25,
			dataBlocks: uint64(from / 4096),
		}
	default:
		m.info = btrfsInfo{maxID: 3, devices: 1, sectorSize: 4096}
		m.btrfs = btrfsDevice{id: 3, totalBytes: uint64(from), path: testDevice}
	}
	return k, k.system(), m
}

// growRequest asks for the growth of the fake filesystem.
func growRequest(s *System, required volume.Size) GrowRequest {
	k, _ := s.kernel.(*fakeKernel)
	return GrowRequest{MountPoint: testMount, Device: k.device(), Required: required}
}

func TestGrowFillsTheDevice(t *testing.T) {
	for _, fs := range []Type{TypeExt3, TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			k, s, m := newFakeFilesystem(t, fs, volume.GiB, 3*volume.GiB)
			want := Growth{Type: fs, Before: volume.GiB, After: 3 * volume.GiB, DeviceSize: 3 * volume.GiB, Method: MethodIoctl}
			if g, err := s.Grow(t.Context(), growRequest(s, 3*volume.GiB)); err != nil || g != want {
				t.Fatalf("growth %+v, %v; want %+v", g, err, want)
			}
			if fs == TypeXFS && m.xfs.imaxpct != 25 {
				t.Errorf("imaxpct changed to %d", m.xfs.imaxpct)
			}
			want.Before, want.Method = want.After, MethodNone
			for range 3 {
				if g, err := s.Grow(t.Context(), growRequest(s, 0)); err != nil || g != want {
					t.Fatalf("second growth: %+v, %v; want nothing to do", g, err)
				}
			}
			if len(k.calls) != 1 {
				t.Errorf("the kernel was asked %q; once is enough", k.calls)
			}
		})
	}
}

func TestGrowRefusesBeforeTheRequest(t *testing.T) {
	for _, tc := range []struct {
		name     string
		fs       Type
		dev      volume.Size
		required volume.Size
		change   func(k *fakeKernel, m *fakeMount)
		kind     volume.Kind
		text     string
		remedy   string
	}{
		{
			"not grown yet", TypeXFS, volume.GiB, 2 * volume.GiB, nil, volume.KindDeadline,
			"has 1 GiB, not yet the required 2 GiB", "storage system",
		},
		{
			"ext larger than its device", TypeExt4, volume.GiB - volume.MiB, 0, nil, volume.KindPrecondition,
			"more than its device", "at least 1 GiB",
		},
		{
			"XFS larger than its device", TypeXFS, volume.GiB - volume.MiB, 0, nil, volume.KindPrecondition,
			"more than its device", "at least 1 GiB",
		},
		{
			"btrfs larger than its device", TypeBtrfs, volume.GiB - volume.MiB, 0, nil, volume.KindPrecondition,
			"more than its device", "at least 1 GiB",
		},
		{
			"ext3 past 2^32 blocks", TypeExt3, 20 * volume.TiB, 20 * volume.TiB, nil, volume.KindOutOfRange, "64bit",
			"request at most 16 TiB in resources.requests.storage",
		},
		{
			"ext4 past 2^32 inodes", TypeExt4, 70 * volume.TiB, 70 * volume.TiB, nil, volume.KindOutOfRange, "inodes",
			"copy the data",
		},
		{"another device", TypeXFS, 2 * volume.GiB, 0, func(k *fakeKernel, _ *fakeMount) {
			k.devices[testDevice].id = blockdev.DeviceNumber{Major: 7, Minor: 9}
		}, volume.KindPrecondition, "not of the volume's device", "staged again"},
		{"another device below btrfs", TypeBtrfs, 2 * volume.GiB, 0, func(k *fakeKernel, m *fakeMount) {
			k.addDevice("/dev/loop9", 9, volume.GiB)
			m.btrfs.path = "/dev/loop9"
		}, volume.KindPrecondition, "not of the volume's device", "staged again"},
		{
			"btrfs of two devices", TypeBtrfs, 2 * volume.GiB, 0, func(_ *fakeKernel, m *fakeMount) { m.info.devices = 2 },
			volume.KindPrecondition, "spans 2 devices", "btrfs device remove",
		},
		{
			"plain directory", TypeXFS, 2 * volume.GiB, 0, func(_ *fakeKernel, m *fakeMount) { m.st.isRoot = false },
			volume.KindPrecondition, "no filesystem is mounted", "mounted again",
		},
		{
			"missing path", TypeXFS, 2 * volume.GiB, 0, func(k *fakeKernel, _ *fakeMount) { delete(k.mountsByPath, testMount) },
			volume.KindPrecondition, "no filesystem is mounted", "mounted again",
		},
		{
			"unknown filesystem", TypeXFS, 2 * volume.GiB, 0, func(_ *fakeKernel, m *fakeMount) { m.magic = 0x01021994 },
			volume.KindPrecondition, "does not measure or grow", "",
		},
		{
			"mount is read-only", TypeXFS, 2 * volume.GiB, 0,
			func(k *fakeKernel, _ *fakeMount) { k.table[0].Options = []string{"ro"} }, volume.KindPrecondition, "read-only",
			"another mount that is writable",
		},
		{"filesystem is read-only", TypeExt4, 2 * volume.GiB, 0, func(k *fakeKernel, _ *fakeMount) {
			k.table[0].Options, k.table[0].SuperOptions = []string{"ro"}, []string{"ro"}
		}, volume.KindPrecondition, "read-only", "mount the volume writable"},
		{
			"only statfs says read-only", TypeBtrfs, 2 * volume.GiB, 0,
			func(_ *fakeKernel, m *fakeMount) { m.flags = unix.ST_RDONLY }, volume.KindPrecondition, "read-only",
			"mount the volume writable",
		},
		{
			"device is read-only", TypeExt4, 2 * volume.GiB, 0,
			func(_ *fakeKernel, m *fakeMount) { m.device.isReadOnly = true }, volume.KindPrecondition, "read-only",
			"mount the volume writable",
		},
		{"ext with errors flagged", TypeExt4, 2 * volume.GiB, 0, func(_ *fakeKernel, m *fakeMount) {
			e := ext4Spec(volume.GiB)
			e.state, e.errors = extStateValid|extStateError, 7
			e.writeTo(m.device)
		}, volume.KindPrecondition, "errors in the filesystem at /staging (7 recorded)", "e2fsck -f /dev/loop0"},
		{"ext with sparse_super2", TypeExt4, 2 * volume.GiB, 0, func(_ *fakeKernel, m *fakeMount) {
			e := ext4Spec(volume.GiB)
			e.compat |= extCompatSparseSuper2
			e.writeTo(m.device)
		}, volume.KindPrecondition, "sparse_super2", "resize2fs"},
		{
			"without CAP_SYS_RESOURCE", TypeExt3, 2 * volume.GiB, 0,
			func(k *fakeKernel, _ *fakeMount) { k.capabilityBits = 1<<21 | 1<<23 }, volume.KindPrecondition, "CAP_SYS_RESOURCE",
			"add SYS_RESOURCE",
		},
		{
			"shut down", TypeXFS, 2 * volume.GiB, 0,
			func(k *fakeKernel, _ *fakeMount) { k.errors["openMount"] = []error{unix.EIO} }, volume.KindPrecondition,
			"has shut down", "mounted again",
		},
		{
			"shut down, seen by statx", TypeXFS, 2 * volume.GiB, 0,
			func(k *fakeKernel, _ *fakeMount) { k.errors["stat"] = []error{unix.EIO} }, volume.KindPrecondition,
			"has shut down", "mounted again",
		},
		{
			"damaged superblock", TypeExt4, 2 * volume.GiB, 0,
			func(_ *fakeKernel, m *fakeMount) { m.device.head[extOffset+56] = 0 }, volume.KindInternal, "damaged", "e2fsck",
		},
		{
			"device unreadable", TypeExt4, 2 * volume.GiB, 0,
			func(k *fakeKernel, _ *fakeMount) { k.errors["read"] = []error{unix.EIO} }, volume.KindInternal,
			"cannot read device",
			"kernel log",
		},
		{"device of size zero", TypeExt4, 0, 0, nil, volume.KindInternal, "size of 0 bytes", "still attached"},
		{
			"impossible geometry", TypeXFS, 2 * volume.GiB, 0,
			func(_ *fakeKernel, m *fakeMount) { m.xfs.dataBlocks = 1 << 62 }, volume.KindInternal, "impossible geometry", "",
		},
		{
			"no capabilities to read", TypeExt4, 2 * volume.GiB, 0,
			func(k *fakeKernel, _ *fakeMount) { k.errors["capabilities"] = []error{unix.EACCES} }, volume.KindInternal,
			"capabilities", "",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, s, m := newFakeFilesystem(t, tc.fs, volume.GiB, tc.dev)
			if tc.change != nil {
				tc.change(k, m)
			}
			_, err := s.Grow(t.Context(), growRequest(s, tc.required))
			volumetest.WantKind(t, err, tc.kind, tc.text, tc.remedy)
			if len(k.calls) != 0 {
				t.Errorf("the kernel was asked: %q", k.calls)
			}
		})
	}
}

func TestGrowExplainsTheErrno(t *testing.T) {
	lateError := func(_ *fakeKernel, m *fakeMount) {
		m.duringGrowth = func() {
			e := ext4Spec(volume.GiB)
			e.state |= extStateError
			e.writeTo(m.device)
		}
	}
	for _, tc := range []struct {
		name   string
		fs     Type
		call   string
		errno  error
		change func(k *fakeKernel, m *fakeMount)
		kind   volume.Kind
		text   string
		remedy string
	}{
		{
			"ext EPERM for the capability", TypeExt4, "ext4Resize", unix.EPERM, nil, volume.KindPrecondition,
			"CAP_SYS_RESOURCE", "privileged",
		},
		{
			"ext EPERM for a late error", TypeExt4, "ext4Resize", unix.EPERM, lateError, volume.KindPrecondition,
			"found errors", "e2fsck",
		},
		{"ext EROFS", TypeExt4, "ext4Resize", unix.EROFS, nil, volume.KindPrecondition, "has become read-only", "e2fsck"},
		{"ext ENOSPC", TypeExt4, "ext4Resize", unix.ENOSPC, nil, volume.KindPrecondition, "may be full", "free space"},
		{"ext EINVAL", TypeExt4, "ext4Resize", unix.EINVAL, nil, volume.KindInternal, "EXT4_IOC_RESIZE_FS", "kernel log"},
		{"ext ENOMEM", TypeExt3, "ext4Resize", unix.ENOMEM, nil, volume.KindInternal, "cannot allocate", "kernel log"},
		{"ext EIO", TypeExt4, "ext4Resize", unix.EIO, nil, volume.KindPrecondition, "may be full", "mounted again"},
		{
			"XFS ENOSPC", TypeXFS, "xfsGrow", unix.ENOSPC, nil, volume.KindPrecondition,
			"storage below /dev/loop0 may be full", "free space",
		},
		{"XFS EIO", TypeXFS, "xfsGrow", unix.EIO, nil, volume.KindPrecondition, "may be full", "mounted again"},
		{"XFS EROFS", TypeXFS, "xfsGrow", unix.EROFS, nil, volume.KindPrecondition, "read-only", "writable"},
		{"XFS EPERM", TypeXFS, "xfsGrow", unix.EPERM, nil, volume.KindPrecondition, "CAP_SYS_ADMIN", "privileged"},
		{"XFS EINVAL", TypeXFS, "xfsGrow", unix.EINVAL, nil, volume.KindInternal, "XFS_IOC_FSGROWFSDATA", "kernel log"},
		{"btrfs EROFS", TypeBtrfs, "btrfsResize", unix.EROFS, nil, volume.KindPrecondition, "read-only", "writable"},
		{"btrfs ENOSPC", TypeBtrfs, "btrfsResize", unix.ENOSPC, nil, volume.KindPrecondition, "may be full", "free space"},
		{
			"btrfs EFBIG", TypeBtrfs, "btrfsResize", unix.EFBIG, nil, volume.KindInternal,
			"smaller than its size that was read before",
			"size",
		},
		{"btrfs EPERM", TypeBtrfs, "btrfsResize", unix.EPERM, nil, volume.KindPrecondition, "CAP_SYS_ADMIN", "privileged"},
		{
			"btrfs code 1", TypeBtrfs, "btrfsResize", btrfsError(1), nil, volume.KindInternal, "btrfs error code 1",
			"kernel log",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, s, m := newFakeFilesystem(t, tc.fs, volume.GiB, 2*volume.GiB)
			k.errors[tc.call] = []error{tc.errno}
			if tc.change != nil {
				tc.change(k, m)
			}
			g, err := s.Grow(t.Context(), growRequest(s, 0))
			volumetest.WantKind(t, err, tc.kind, tc.text, tc.remedy)
			if g.After != volume.GiB {
				t.Errorf("growth %+v, want the old size of 1 GiB", g)
			}
		})
	}
}

func TestGrowWaitsForAnotherGrowth(t *testing.T) {
	for _, tc := range []struct {
		fs    Type
		call  string
		errno error
	}{
		{TypeExt4, "ext4Resize", unix.EBUSY},
		{TypeXFS, "xfsGrow", unix.EAGAIN},
		{TypeBtrfs, "btrfsResize", btrfsError(btrfsExclusiveRunning)},
		{TypeExt3, "ext4Resize", unix.EINTR},
	} {
		t.Run(string(tc.fs)+" ends", func(t *testing.T) {
			k, s, _ := newFakeFilesystem(t, tc.fs, volume.GiB, 2*volume.GiB)
			k.errors[tc.call] = []error{tc.errno, tc.errno, tc.errno}
			g, err := s.Grow(t.Context(), growRequest(s, 0))
			if err != nil || g.After != 2*volume.GiB || g.Method != MethodIoctl || len(k.calls) != 4 {
				t.Fatalf("growth %+v, %v by the calls %q; want 2 GiB by 4 calls", g, err, k.calls)
			}
		})
		t.Run(string(tc.fs)+" does the work", func(t *testing.T) {
			k, s, m := newFakeFilesystem(t, tc.fs, volume.GiB, 2*volume.GiB)
			k.errors[tc.call] = []error{tc.errno}
			m.duringGrowth = func() {
				m.xfs.dataBlocks, m.btrfs.totalBytes = uint64(2*volume.GiB/4096), uint64(2*volume.GiB)
				spec := ext4Spec(2 * volume.GiB)
				if tc.fs == TypeExt3 {
					spec = ext3Spec(2 * volume.GiB)
				}
				spec.writeTo(m.device)
			}
			g, err := s.Grow(t.Context(), growRequest(s, 0))
			if err != nil || g.After != 2*volume.GiB || g.Method != MethodNone || len(k.calls) != 1 {
				t.Fatalf("growth %+v, %v by the calls %q; want 2 GiB, by the other growth", g, err, k.calls)
			}
		})
		t.Run(string(tc.fs)+" does not end", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k, s, _ := newFakeFilesystem(t, tc.fs, volume.GiB, 2*volume.GiB)
				k.errors[tc.call] = slices.Repeat([]error{tc.errno}, 1000)
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
				defer cancel()
				g, err := s.Grow(ctx, growRequest(s, 0))
				volumetest.WantKind(t, err, volume.KindDeadline, "has 1 GiB and is still being grown", "the next retry picks it up")
				if g.After != volume.GiB || !errors.Is(err, tc.errno) {
					t.Errorf("growth %+v, %v; want 1 GiB and the cause %v", g, err, tc.errno)
				}
			})
		})
	}
}

func TestGrowStartsNothingAfterItsContext(t *testing.T) {
	k, s, _ := newFakeFilesystem(t, TypeXFS, volume.GiB, 2*volume.GiB)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Grow(ctx, growRequest(s, 0))
	volumetest.WantKind(t, err, volume.KindCanceled, "did not begin")
	if len(k.calls) != 0 {
		t.Errorf("the kernel was asked: %q", k.calls)
	}
}

// TestGrowFailsWhenTheSizeDoesNotChange has a kernel that accepts the request and does
// nothing.
func TestGrowFailsWhenTheSizeDoesNotChange(t *testing.T) {
	for _, fs := range []Type{TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			_, s, m := newFakeFilesystem(t, fs, volume.GiB, 2*volume.GiB)
			m.ignoresGrowth = true
			_, err := s.Grow(t.Context(), growRequest(s, 0))
			volumetest.WantKind(t, err, volume.KindInternal, "to 2 GiB, but it reads back 1 GiB (before: 1 GiB; device: 2 GiB)",
				"kernel log")
		})
	}
}
