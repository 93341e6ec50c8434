package filesystem

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	utilexec "k8s.io/utils/exec"
	testingexec "k8s.io/utils/exec/testing"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	testDevice = "/dev/loop0"
	testMount  = "/staging"
)

// newFakeFilesystem is a filesystem of size from, mounted, on a device of size dev.
func newFakeFilesystem(t *testing.T, fs Type, from, dev volume.Size) (*fakeKernel, *System, *fakeMount) {
	t.Helper()
	k := newFakeKernel(t)
	d := k.addDevice(testDevice, 0, dev)
	m := k.addMount(testMount, testDevice, map[Type]Type{TypeExt3: TypeExt4, TypeExt4: TypeExt4, TypeXFS: TypeXFS, TypeBtrfs: TypeBtrfs}[fs])
	switch fs {
	case TypeExt3:
		ext3Spec(from).put(d)
	case TypeExt4:
		ext4Spec(from).put(d)
	case TypeXFS:
		m.xfs = xfsGeometry{blockSize: 4096, agBlocks: uint32(from / 4096 / 4), agCount: 4, imaxpct: 25, dataBlocks: uint64(from / 4096)}
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

func TestGrow(t *testing.T) {
	for _, fs := range []Type{TypeExt3, TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			k, s, m := newFakeFilesystem(t, fs, volume.GiB, 3*volume.GiB)
			want := Growth{Type: fs, Before: volume.GiB, After: 3 * volume.GiB, DeviceSize: 3 * volume.GiB, Method: MethodIoctl}
			if g, err := s.Grow(t.Context(), growRequest(s, 3*volume.GiB)); err != nil || g != want {
				t.Fatalf("%+v, %v", g, err)
			}
			if fs == TypeXFS && m.xfs.imaxpct != 25 {
				t.Errorf("imaxpct changed to %d", m.xfs.imaxpct)
			}
			want.Before, want.Method = want.After, MethodNone
			for range 3 {
				if g, err := s.Grow(t.Context(), growRequest(s, 0)); err != nil || g != want {
					t.Fatalf("asked again: %+v, %v", g, err)
				}
			}
			if len(k.calls) != 1 {
				t.Errorf("the kernel was asked %q; once is enough", k.calls)
			}
		})
	}
}

// TestGrowRefusals: each state is recognized before the kernel is asked.
func TestGrowRefusals(t *testing.T) {
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
		{"not grown yet", TypeXFS, volume.GiB, 2 * volume.GiB, nil, volume.KindDeadline, "has 1 GiB, not yet the required 2 GiB", "storage system"},
		{"ext larger than its device", TypeExt4, volume.GiB - volume.MiB, 0, nil, volume.KindPrecondition, "more than its device", "at least 1 GiB"},
		{"XFS larger than its device", TypeXFS, volume.GiB - volume.MiB, 0, nil, volume.KindPrecondition, "more than its device", "at least 1 GiB"},
		{"btrfs larger than its device", TypeBtrfs, volume.GiB - volume.MiB, 0, nil, volume.KindPrecondition, "more than its device", "at least 1 GiB"},
		{"ext3 past 2^32 blocks", TypeExt3, 20 * volume.TiB, 20 * volume.TiB, nil, volume.KindOutOfRange, "64bit", "at most 16 TiB,"},
		{"ext4 past 2^32 inodes", TypeExt4, 70 * volume.TiB, 70 * volume.TiB, nil, volume.KindOutOfRange, "inodes", "copy the data"},
		{"another device", TypeXFS, 2 * volume.GiB, 0, func(k *fakeKernel, _ *fakeMount) {
			k.devices[testDevice].id = blockdev.DeviceNumber{Major: 7, Minor: 9}
		}, volume.KindPrecondition, "not of the volume's device", "staged again"},
		{"another device below btrfs", TypeBtrfs, 2 * volume.GiB, 0, func(k *fakeKernel, m *fakeMount) {
			k.addDevice("/dev/loop9", 9, volume.GiB)
			m.btrfs.path = "/dev/loop9"
		}, volume.KindPrecondition, "not of the volume's device", "staged again"},
		{"btrfs of two devices", TypeBtrfs, 2 * volume.GiB, 0, func(_ *fakeKernel, m *fakeMount) { m.info.devices = 2 }, volume.KindPrecondition, "spans 2 devices", "btrfs device remove"},
		{"plain directory", TypeXFS, 2 * volume.GiB, 0, func(_ *fakeKernel, m *fakeMount) { m.st.isRoot = false }, volume.KindPrecondition, "no filesystem is mounted", "staged"},
		{"missing path", TypeXFS, 2 * volume.GiB, 0, func(k *fakeKernel, _ *fakeMount) { delete(k.dirs, testMount) }, volume.KindPrecondition, "no filesystem is mounted", "staged"},
		{"unknown filesystem", TypeXFS, 2 * volume.GiB, 0, func(_ *fakeKernel, m *fakeMount) { m.magic = 0x01021994 }, volume.KindPrecondition, "does not measure or grow", ""},
		{"mount is read-only", TypeXFS, 2 * volume.GiB, 0, func(k *fakeKernel, _ *fakeMount) { k.table[0].Options = []string{"ro"} }, volume.KindPrecondition, "read-only", "writable mount of it"},
		{"filesystem is read-only", TypeExt4, 2 * volume.GiB, 0, func(k *fakeKernel, _ *fakeMount) {
			k.table[0].Options, k.table[0].SuperOptions = []string{"ro"}, []string{"ro"}
		}, volume.KindPrecondition, "read-only", "mount the volume writable"},
		{"only statfs says read-only", TypeBtrfs, 2 * volume.GiB, 0, func(_ *fakeKernel, m *fakeMount) { m.flags = unix.ST_RDONLY }, volume.KindPrecondition, "read-only", "mount the volume writable"},
		{"device is read-only", TypeExt4, 2 * volume.GiB, 0, func(_ *fakeKernel, m *fakeMount) { m.device.isReadOnly = true }, volume.KindPrecondition, "read-only", "mount the volume writable"},
		{"ext with errors flagged", TypeExt4, 2 * volume.GiB, 0, func(_ *fakeKernel, m *fakeMount) {
			e := ext4Spec(volume.GiB)
			e.state, e.errors = extStateValid|extStateError, 7
			e.put(m.device)
		}, volume.KindPrecondition, "errors in the filesystem at /staging (7 recorded)", "e2fsck -f /dev/loop0"},
		{"ext with sparse_super2", TypeExt4, 2 * volume.GiB, 0, func(_ *fakeKernel, m *fakeMount) {
			e := ext4Spec(volume.GiB)
			e.compat |= extCompatSparseSuper2
			e.put(m.device)
		}, volume.KindPrecondition, "sparse_super2", "resize2fs"},
		{"without CAP_SYS_RESOURCE", TypeExt3, 2 * volume.GiB, 0, func(k *fakeKernel, _ *fakeMount) { k.caps = 1<<21 | 1<<23 }, volume.KindPrecondition, "CAP_SYS_RESOURCE", "add SYS_RESOURCE"},
		{"shut down", TypeXFS, 2 * volume.GiB, 0, func(k *fakeKernel, _ *fakeMount) { k.errors["openMount"] = []error{unix.EIO} }, volume.KindPrecondition, "has shut down", "mounted again"},
		{"shut down, seen by statx", TypeXFS, 2 * volume.GiB, 0, func(k *fakeKernel, _ *fakeMount) { k.errors["stat"] = []error{unix.EIO} }, volume.KindPrecondition, "has shut down", "mounted again"},
		{"damaged superblock", TypeExt4, 2 * volume.GiB, 0, func(_ *fakeKernel, m *fakeMount) { m.device.head[extOffset+56] = 0 }, volume.KindInternal, "damaged", "e2fsck"},
		{"device unreadable", TypeExt4, 2 * volume.GiB, 0, func(k *fakeKernel, _ *fakeMount) { k.errors["read"] = []error{unix.EIO} }, volume.KindInternal, "cannot be read", "kernel log"},
		{"device of size zero", TypeExt4, 0, 0, nil, volume.KindInternal, "size of 0 bytes", "connection"},
		{"impossible geometry", TypeXFS, 2 * volume.GiB, 0, func(_ *fakeKernel, m *fakeMount) { m.xfs.dataBlocks = 1 << 62 }, volume.KindInternal, "impossible geometry", ""},
		{"no capabilities to read", TypeExt4, 2 * volume.GiB, 0, func(k *fakeKernel, _ *fakeMount) { k.errors["capabilities"] = []error{unix.EACCES} }, volume.KindInternal, "capabilities", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, s, m := newFakeFilesystem(t, tc.fs, volume.GiB, tc.dev)
			if tc.change != nil {
				tc.change(k, m)
			}
			_, err := s.Grow(t.Context(), growRequest(s, tc.required))
			wantError(t, err, tc.kind, tc.text, tc.remedy)
			if len(k.calls) != 0 {
				t.Errorf("the kernel was asked: %q", k.calls)
			}
		})
	}
}

// TestGrowErrno: what the kernel answers, and what is made of it.
func TestGrowErrno(t *testing.T) {
	lateError := func(_ *fakeKernel, m *fakeMount) {
		m.duringGrowth = func() {
			e := ext4Spec(volume.GiB)
			e.state |= extStateError
			e.put(m.device)
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
		{"ext EPERM for the capability", TypeExt4, "ext4Resize", unix.EPERM, nil, volume.KindPrecondition, "CAP_SYS_RESOURCE", "privileged"},
		{"ext EPERM for a late error", TypeExt4, "ext4Resize", unix.EPERM, lateError, volume.KindPrecondition, "found errors", "e2fsck"},
		{"ext EROFS", TypeExt4, "ext4Resize", unix.EROFS, nil, volume.KindPrecondition, "has become read-only", "e2fsck"},
		{"ext ENOSPC", TypeExt4, "ext4Resize", unix.ENOSPC, nil, volume.KindPrecondition, "may be full", "make room"},
		{"ext EINVAL", TypeExt4, "ext4Resize", unix.EINVAL, nil, volume.KindInternal, "EXT4_IOC_RESIZE_FS", "kernel log"},
		{"ext ENOMEM", TypeExt3, "ext4Resize", unix.ENOMEM, nil, volume.KindInternal, "cannot allocate", "kernel log"},
		{"ext EIO", TypeExt4, "ext4Resize", unix.EIO, nil, volume.KindPrecondition, "may be full", "mounted again"},
		{"XFS ENOSPC", TypeXFS, "xfsGrow", unix.ENOSPC, nil, volume.KindPrecondition, "storage below /dev/loop0 may be full", "make room"},
		{"XFS EIO", TypeXFS, "xfsGrow", unix.EIO, nil, volume.KindPrecondition, "may be full", "mounted again"},
		{"XFS EROFS", TypeXFS, "xfsGrow", unix.EROFS, nil, volume.KindPrecondition, "read-only", "writable"},
		{"XFS EPERM", TypeXFS, "xfsGrow", unix.EPERM, nil, volume.KindPrecondition, "CAP_SYS_ADMIN", "privileged"},
		{"XFS EINVAL", TypeXFS, "xfsGrow", unix.EINVAL, nil, volume.KindInternal, "XFS_IOC_FSGROWFSDATA", "kernel log"},
		{"btrfs EROFS", TypeBtrfs, "btrfsResize", unix.EROFS, nil, volume.KindPrecondition, "read-only", "writable"},
		{"btrfs ENOSPC", TypeBtrfs, "btrfsResize", unix.ENOSPC, nil, volume.KindPrecondition, "may be full", "make room"},
		{"btrfs EFBIG", TypeBtrfs, "btrfsResize", unix.EFBIG, nil, volume.KindInternal, "smaller than the kernel said", "size"},
		{"btrfs EPERM", TypeBtrfs, "btrfsResize", unix.EPERM, nil, volume.KindPrecondition, "CAP_SYS_ADMIN", "privileged"},
		{"btrfs code 1", TypeBtrfs, "btrfsResize", btrfsError(1), nil, volume.KindInternal, "btrfs error code 1", "kernel log"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, s, m := newFakeFilesystem(t, tc.fs, volume.GiB, 2*volume.GiB)
			k.errors[tc.call] = []error{tc.errno}
			if tc.change != nil {
				tc.change(k, m)
			}
			g, err := s.Grow(t.Context(), growRequest(s, 0))
			wantError(t, err, tc.kind, tc.text, tc.remedy)
			if g.After != volume.GiB {
				t.Errorf("%+v: claims a growth", g)
			}
		})
	}
}

// TestGrowBusy: another growth is under way; it is waited for.
func TestGrowBusy(t *testing.T) {
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
				t.Fatalf("%+v, %v, %q", g, err, k.calls)
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
				spec.put(m.device)
			}
			g, err := s.Grow(t.Context(), growRequest(s, 0))
			if err != nil || g.After != 2*volume.GiB || g.Method != MethodNone || len(k.calls) != 1 {
				t.Fatalf("%+v, %v, %q", g, err, k.calls)
			}
		})
		t.Run(string(tc.fs)+" does not end", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k, s, _ := newFakeFilesystem(t, tc.fs, volume.GiB, 2*volume.GiB)
				k.errors[tc.call] = slices.Repeat([]error{tc.errno}, 1000)
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
				defer cancel()
				g, err := s.Grow(ctx, growRequest(s, 0))
				wantError(t, err, volume.KindDeadline, "has 1 GiB and is still being grown", "the next retry picks it up")
				if g.After != volume.GiB || !errors.Is(err, tc.errno) {
					t.Errorf("%+v, %v", g, err)
				}
			})
		})
	}
}

// TestGrowNotBegun: a context that has ended starts nothing.
func TestGrowNotBegun(t *testing.T) {
	k, s, _ := newFakeFilesystem(t, TypeXFS, volume.GiB, 2*volume.GiB)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Grow(ctx, growRequest(s, 0))
	wantError(t, err, volume.KindCanceled, "not begun", "")
	if len(k.calls) != 0 {
		t.Errorf("the kernel was asked: %q", k.calls)
	}
}

// TestGrowUnproven: the kernel says yes and nothing happened.
func TestGrowUnproven(t *testing.T) {
	for _, fs := range []Type{TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			_, s, m := newFakeFilesystem(t, fs, volume.GiB, 2*volume.GiB)
			m.ignoresGrowth = true
			_, err := s.Grow(t.Context(), growRequest(s, 0))
			wantError(t, err, volume.KindInternal, "to 2 GiB, but it reads back 1 GiB (before: 1 GiB; device: 2 GiB)", "kernel log")
		})
	}
}

// TestGrowWithinShortGroup: a last group that is there already grows by the
// block, so a growth that does not show is an error there, too.
func TestGrowWithinShortGroup(t *testing.T) {
	const from, dev = volume.GiB + 600*4096, volume.GiB + 700*4096
	_, s, m := newFakeFilesystem(t, TypeExt4, from, dev)
	m.ignoresGrowth = true
	_, err := s.Grow(t.Context(), growRequest(s, 0))
	wantError(t, err, volume.KindInternal, "reads back", "kernel log")
	m.ignoresGrowth = false
	if g, err := s.Grow(t.Context(), growRequest(s, 0)); err != nil || g.After != dev {
		t.Fatalf("%+v, %v", g, err)
	}
}

// TestGrowClusters: a filesystem with bigalloc ends at a whole cluster.
func TestGrowClusters(t *testing.T) {
	k, s, m := newFakeFilesystem(t, TypeExt4, volume.GiB, 2*volume.GiB+33*volume.MiB+20*volume.KiB)
	spec := ext4Spec(volume.GiB)
	spec.logCluster, spec.rocompt = 4, spec.rocompt|0x200
	spec.put(m.device)
	for range 2 {
		if g, err := s.Grow(t.Context(), growRequest(s, 0)); err != nil || g.After != 2*volume.GiB+33*volume.MiB {
			t.Fatalf("%+v, %v", g, err)
		}
	}
	if len(k.calls) != 1 {
		t.Errorf("calls: %q", k.calls)
	}
}

// TestGrowTail: device sizes at which a filesystem cannot use all.
func TestGrowTail(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fs    Type
		dev   volume.Size
		after volume.Size
		calls int // for two requests
	}{
		{"ext4, less than a block", TypeExt4, volume.GiB + 4095, volume.GiB, 0},
		{"ext4, metadata only", TypeExt4, volume.GiB + 400*volume.KiB, volume.GiB, 0},
		{"ext4, most metadata there can be", TypeExt4, volume.GiB + 6*volume.MiB, volume.GiB + 6*volume.MiB, 1},
		{"ext4, enough", TypeExt4, volume.GiB + 64*volume.MiB + 512, volume.GiB + 64*volume.MiB, 1},
		{"ext4, groups and a short tail", TypeExt4, 2*volume.GiB + 256*volume.KiB, 2 * volume.GiB, 1},
		{"XFS, 63 blocks", TypeXFS, volume.GiB + 63*4096, volume.GiB, 0},
		{"XFS, 64 blocks", TypeXFS, volume.GiB + 64*4096, volume.GiB + 64*4096, 1},
		{"XFS, groups and 63 blocks", TypeXFS, 2*volume.GiB + 63*4096, 2 * volume.GiB, 1},
		{"btrfs, less than a sector", TypeBtrfs, volume.GiB + 4095, volume.GiB, 0},
		{"btrfs, a sector", TypeBtrfs, volume.GiB + 4097, volume.GiB + 4096, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, s, _ := newFakeFilesystem(t, tc.fs, volume.GiB, tc.dev)
			for range 2 {
				if g, err := s.Grow(t.Context(), growRequest(s, tc.dev)); err != nil || g.After != tc.after {
					t.Fatalf("%+v, %v", g, err)
				}
			}
			if len(k.calls) != tc.calls {
				t.Errorf("calls: %q", k.calls)
			}
		})
	}
}

// TestGrowToLimit: a format that ends below the device is grown to its end
// when more is not required.
func TestGrowToLimit(t *testing.T) {
	k, s, _ := newFakeFilesystem(t, TypeExt3, volume.GiB, 20*volume.TiB)
	const end = 16*volume.TiB - 4096
	for _, required := range []volume.Size{0, 16 * volume.TiB} {
		if g, err := s.Grow(t.Context(), growRequest(s, required)); err != nil || g.After != end {
			t.Fatalf("%+v, %v", g, err)
		}
	}
	_, err := s.Grow(t.Context(), growRequest(s, 16*volume.TiB+1))
	wantError(t, err, volume.KindOutOfRange, "64bit", "at most 16 TiB,")
	if !slices.Equal(k.calls, []string{"ext4Resize 4294967295"}) {
		t.Errorf("calls: %q", k.calls)
	}
}

// TestGrowTornSuperblock: the superblock is read while the kernel changes it.
func TestGrowTornSuperblock(t *testing.T) {
	_, s, m := newFakeFilesystem(t, TypeExt4, volume.GiB, volume.GiB)
	e := ext4Spec(9 * volume.TiB)
	e.badChecksum = true
	e.put(m.device)
	changing := &changingDevice{fakeDevice: m.device, change: func(reads int) {
		if reads == 3 {
			ext4Spec(volume.GiB).put(m.device)
		}
	}}
	got, err := readExtSuperblock(t.Context(), changing)
	if err != nil || got.size() != volume.GiB || changing.reads != 3 {
		t.Fatalf("%s after %d reads, %v", got.size(), changing.reads, err)
	}
	if g, err := s.Grow(t.Context(), growRequest(s, 0)); err != nil || g.Before != volume.GiB {
		t.Fatalf("%+v, %v", g, err)
	}
	// A checksum that stays wrong is the kernel's, which renews it late.
	e.blocks = uint64(volume.GiB / 4096)
	e.put(m.device)
	if got, err := readExtSuperblock(t.Context(), m.device); err != nil || got.size() != volume.GiB {
		t.Fatalf("%s, %v", got.size(), err)
	}
	// Without a checksum two reads must agree; with every read different there
	// is no answer.
	for _, wantReads := range []int{4, 0} {
		changing = &changingDevice{fakeDevice: m.device, change: func(reads int) {
			if reads <= 3 || wantReads == 0 {
				ext3Spec(volume.GiB * volume.Size(reads)).put(m.device)
			}
		}}
		got, err = readExtSuperblock(t.Context(), changing)
		if wantReads == 0 {
			wantError(t, err, volume.KindInternal, "changes with every read", "e2fsck")
		} else if err != nil || got.size() != 3*volume.GiB || changing.reads != wantReads {
			t.Fatalf("%s after %d reads, %v", got.size(), changing.reads, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = readExtSuperblock(ctx, m.device)
	wantError(t, err, volume.KindCanceled, "read the superblock", "")
}

// changingDevice is written to between the reads.
type changingDevice struct {
	*fakeDevice
	reads  int
	change func(reads int)
}

func (cd *changingDevice) ReadAt(p []byte, at int64) (int, error) {
	cd.reads++
	cd.change(cd.reads)
	return cd.fakeDevice.ReadAt(p, at)
}

// TestGrowByTool: a kernel without the ioctl; the tool is believed no more
// than the kernel is.
func TestGrowByTool(t *testing.T) {
	for _, tc := range []struct {
		fs      Type
		call    string
		errno   error
		command []string
	}{
		{TypeExt4, "ext4Resize", unix.ENOTTY, []string{"resize2fs", testDevice, "524288"}},
		{TypeXFS, "xfsGrow", unix.ENOSYS, []string{"xfs_growfs", "-D", "524288", testMount}},
		{TypeBtrfs, "btrfsResize", unix.EOPNOTSUPP, []string{"btrfs", "filesystem", "resize", "3:2147483648", testMount}},
	} {
		for name, tool := range map[string]struct {
			err  error
			out  string
			grow bool
			kind volume.Kind
			text string
		}{
			"works":     {grow: true},
			"lies":      {kind: volume.KindInternal, text: "reads back 1 GiB"},
			"fails":     {err: testingexec.FakeExitError{Status: 1}, kind: volume.KindPrecondition, text: "exit status 1"},
			"busy":      {err: testingexec.FakeExitError{Status: 1}, out: "Device or resource busy", kind: volume.KindDeadline, text: "in use by another request"},
			"missing":   {err: utilexec.ErrExecutableNotFound, kind: volume.KindPrecondition, text: "not installed"},
			"not begun": {err: unix.ENOMEM, kind: volume.KindInternal, text: "cannot allocate"},
		} {
			t.Run(string(tc.fs)+" "+name, func(t *testing.T) {
				k, s, m := newFakeFilesystem(t, tc.fs, volume.GiB, 2*volume.GiB)
				k.errors[tc.call] = []error{tc.errno}
				var ran []string
				s.exec = fakeExec(t, func(command []string) ([]byte, error) {
					ran = command
					if tool.grow {
						ext4Spec(2 * volume.GiB).put(m.device)
						m.xfs.dataBlocks, m.btrfs.totalBytes = 524288, uint64(2*volume.GiB)
					}
					return []byte("output " + tool.out), tool.err
				})
				g, err := s.Grow(t.Context(), growRequest(s, 0))
				if !slices.Equal(ran, tc.command) {
					t.Errorf("ran %q, want %q", ran, tc.command)
				}
				if tool.grow {
					if err != nil || g.After != 2*volume.GiB || g.Method != MethodTool {
						t.Fatalf("%+v, %v", g, err)
					}
					return
				}
				wantError(t, err, tool.kind, tool.text, "")
			})
		}
	}
}

// fakeExec runs commands through a function.
func fakeExec(t *testing.T, run func(command []string) ([]byte, error)) utilexec.Interface {
	t.Helper()
	return &execFunc{t: t, run: run}
}

type execFunc struct {
	utilexec.Interface
	t   *testing.T
	run func(command []string) ([]byte, error)
}

func (ef *execFunc) CommandContext(ctx context.Context, name string, args ...string) utilexec.Cmd {
	if ctx == nil {
		ef.t.Errorf("%s runs without a context", name)
	}
	return execCmd{run: func() ([]byte, error) { return ef.run(append([]string{name}, args...)) }}
}

func (ef *execFunc) Command(name string, _ ...string) utilexec.Cmd {
	ef.t.Errorf("%s runs without a context", name)
	return execCmd{run: func() ([]byte, error) { return nil, errors.ErrUnsupported }}
}

type execCmd struct {
	utilexec.Cmd
	run func() ([]byte, error)
}

func (ec execCmd) CombinedOutput() ([]byte, error) { return ec.run() }
