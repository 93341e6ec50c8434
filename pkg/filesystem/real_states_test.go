package filesystem

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// TestRealGrowOfExtFeatures has features that change how the kernel grows ext.
func TestRealGrowOfExtFeatures(t *testing.T) {
	for _, tc := range []struct {
		name     string
		fs       Type
		from, to volume.Size
		options  []string
		granule  volume.Size // the size is a multiple of it; 0: 4 KiB
	}{
		{"ext3 with 128-byte inodes", TypeExt3, volume.GiB, 4 * volume.GiB, []string{"-I", "128"}, 0},
		{"ext3 without resize_inode", TypeExt3, volume.GiB, 16 * volume.GiB, []string{"-O", "^resize_inode"}, 0},
		{"ext4 without resize_inode", TypeExt4, volume.GiB, 64 * volume.GiB, []string{"-O", "^resize_inode"}, 0},
		{"ext4 with meta_bg", TypeExt4, volume.GiB, 64 * volume.GiB, []string{"-O", "meta_bg,^resize_inode"}, 0},
		{"ext4 past its reserved descriptors", TypeExt4, volume.GiB, 100 * volume.GiB, []string{"-E", "resize=600000"}, 0},
		{"ext4 with 1 KiB blocks", TypeExt4, volume.GiB, 5 * volume.GiB, []string{"-b", "1024"}, 0},
		{"ext3 with 1 KiB blocks", TypeExt3, volume.GiB, 3 * volume.GiB, []string{"-b", "1024"}, 0},
		{
			"ext4 with 1 KiB blocks and an odd end", TypeExt4, volume.GiB, 2*volume.GiB + 5*volume.MiB + 7*volume.KiB,
			[]string{"-b", "1024"},
			0,
		},
		{"ext4 with bigalloc", TypeExt4, volume.GiB, 4 * volume.GiB, []string{"-O", "bigalloc"}, 64 * volume.KiB},
		{
			"ext4 with bigalloc and an odd end", TypeExt4, volume.GiB, 4*volume.GiB + 33*volume.MiB + 20*volume.KiB,
			[]string{"-O", "bigalloc"},
			64 * volume.KiB,
		},
		{
			"ext4 without checksums and 64bit", TypeExt4, volume.GiB, 4 * volume.GiB,
			[]string{"-O", "^metadata_csum,^64bit"},
			0,
		},
		{"ext4 without journal", TypeExt4, volume.GiB, 4 * volume.GiB, []string{"-O", "^has_journal"}, 0},
		{"ext4 with an odd first size", TypeExt4, volume.GiB + 77*4096, 3 * volume.GiB, nil, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			skipWithoutGrowth(t, tc.fs)
			s, d := New(Options{}), newDisk(t, tc.from)
			d.mkfs(t, tc.fs, tc.options...)
			target := d.mount(t, s, tc.fs)
			d.resize(t, tc.to)
			if g := d.grow(t, s, target); g.Method != MethodIoctl || g.After != tc.to.RoundDown(cmp.Or(tc.granule, 4096)) {
				t.Fatalf("growth %+v, want a size of about %s by the ioctl", g, tc.to)
			}
			if g := d.grow(t, s, target); g.Method != MethodNone {
				t.Fatalf("second growth: %+v, want nothing to do", g)
			}
			unmount(t, s, target)
			d.fsck(t, tc.fs)
		})
	}
}

func TestRealGrowRefusesSparseSuper2(t *testing.T) {
	skipWithoutFilesystem(t, TypeExt4)
	s, d := New(Options{}), newDisk(t, volume.GiB)
	d.mkfs(t, TypeExt4, "-O", "sparse_super2")
	target := d.mount(t, s, TypeExt4)
	d.resize(t, 2*volume.GiB)
	_, err := s.Grow(t.Context(), GrowRequest{MountPoint: target, Device: d.open(t)})
	volumetest.WantKind(t, err, volume.KindPrecondition, "sparse_super2", "resize2fs")
}

// TestRealGrowRefusesMoreThan32BitsOfBlocks: the kernel stops with a BUG when a filesystem
// without the 64bit feature grows past 2^32 blocks.
func TestRealGrowRefusesMoreThan32BitsOfBlocks(t *testing.T) {
	for fs, options := range map[Type][]string{TypeExt3: nil, TypeExt4: {"-O", "^64bit"}} {
		t.Run(string(fs), func(t *testing.T) {
			skipWithoutFilesystem(t, fs)
			s, d := New(Options{}), newDisk(t, 20*volume.TiB)
			d.resize(t, volume.GiB)
			d.mkfs(t, fs, options...)
			target := d.mount(t, s, fs)
			d.resize(t, 20*volume.TiB)
			_, err := s.Grow(t.Context(), GrowRequest{MountPoint: target, Device: d.open(t), Required: 20 * volume.TiB})
			volumetest.WantKind(t, err, volume.KindOutOfRange, "64bit", "request at most 16 TiB in resources.requests.storage")
			if geo := mountedGeometry(t, s, d.open(t), target); geo.size() != volume.GiB {
				t.Fatalf("geometry after the refusal: %+v; want 1 GiB", geo)
			}
			unmount(t, s, target)
			d.fsck(t, fs)
		})
	}
}

// TestRealGrowTo32BitsOfBlocks grows such a filesystem to its last possible block. Large
// clusters keep the number of groups small.
func TestRealGrowTo32BitsOfBlocks(t *testing.T) {
	skipWithoutGrowth(t, TypeExt4)
	s, d := New(Options{}), newDisk(t, 20*volume.TiB)
	d.resize(t, volume.GiB)
	d.mkfs(t, TypeExt4, strings.Fields(cmp.Or(os.Getenv("TO32"), "-O ^64bit,bigalloc -C 262144 -N 8192"))...)
	target := d.mount(t, s, TypeExt4)
	d.resize(t, 20*volume.TiB)
	g, err := s.Grow(t.Context(), GrowRequest{MountPoint: target, Device: d.open(t), Required: 16 * volume.TiB})
	if err != nil || g.After < 16*volume.TiB-volume.MiB || g.After >= 16*volume.TiB {
		t.Fatalf("growth %+v, %v; want the last MiB below 16 TiB", g, err)
	}
	if again := d.grow(t, s, target); again.Method != MethodNone {
		t.Fatalf("second growth: %+v, want nothing to do", again)
	}
	unmount(t, s, target)
	d.fsck(t, TypeExt4)
}

// TestRealGrowRefusesMoreInodesThan32Bits has so many inodes per group that the 32-bit
// inode numbers end before the device.
func TestRealGrowRefusesMoreInodesThan32Bits(t *testing.T) {
	skipWithoutFilesystem(t, TypeExt4)
	s, d := New(Options{}), newDisk(t, 20*volume.TiB)
	d.resize(t, volume.GiB)
	d.mkfs(t, TypeExt4, "-i", "4096", "-b", "4096")
	target := d.mount(t, s, TypeExt4)
	d.resize(t, 20*volume.TiB)
	_, err := s.Grow(t.Context(), GrowRequest{MountPoint: target, Device: d.open(t), Required: 20 * volume.TiB})
	volumetest.WantKind(t, err, volume.KindOutOfRange, "inodes", "copy the data")
}

// TestRealGrowRefusesRecordedErrors has an error that was recorded before the mount or
// during it. After e2fsck the filesystem grows.
func TestRealGrowRefusesRecordedErrors(t *testing.T) {
	for name, flag := range map[string]func(t *testing.T, d loopDisk, mounted bool){
		"before the mount": func(t *testing.T, d loopDisk, mounted bool) {
			t.Helper()
			if !mounted {
				mustRun(t, "debugfs", "-w", "-R", "set_super_value state 3", d.device)
			}
		},
		"while mounted": func(t *testing.T, d loopDisk, mounted bool) {
			t.Helper()
			if mounted {
				d.triggerError(t)
			}
		},
	} {
		for _, onError := range []string{"continue", "remount-ro"} {
			t.Run(name+", errors="+onError, func(t *testing.T) {
				skipWithoutFilesystem(t, TypeExt4)
				s, d := New(Options{}), newDisk(t, volume.GiB)
				d.mkfs(t, TypeExt4)
				flag(t, d, false)
				target := d.mount(t, s, TypeExt4, "errors="+onError)
				flag(t, d, true)
				d.awaitErrors(t, s, target)
				d.resize(t, 2*volume.GiB)
				_, err := s.Grow(t.Context(), GrowRequest{MountPoint: target, Device: d.open(t)})
				volumetest.WantKind(t, err, volume.KindPrecondition, "errors in the filesystem", "e2fsck -f "+d.device)
				unmount(t, s, target)
				ctx := t.Context()
				if err := s.Check(ctx, d.open(t), TypeExt4); err != nil {
					t.Fatal(err)
				}
				d.mountAt(t, s, TypeExt4, target)
				if !hasResourceCapability(t) {
					return
				}
				if g := d.grow(t, s, target); g.After != 2*volume.GiB {
					t.Fatalf("growth after e2fsck: %+v, want 2 GiB", g)
				}
			})
		}
	}
}

// shutDownFilesystem makes every access to a filesystem fail, as the loss of its device
// does (XFS_IOC_GOINGDOWN and EXT4_IOC_SHUTDOWN, which have one number). It leaves changes
// in the log.
func shutDownFilesystem(t *testing.T, path string) {
	t.Helper()
	const goingDown, noLogFlush = 0x8004587d, 2
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	flags := uint32(noLogFlush)
	if _, err := ioctl(fd, goingDown, &flags); err != nil {
		t.Fatal(err)
	}
}

// TestRealShutDownFilesystemRecovers unmounts a filesystem that has shut down, mounts it
// again, which replays its journal, and grows it.
func TestRealShutDownFilesystemRecovers(t *testing.T) {
	for _, fs := range []Type{TypeExt4, TypeXFS} {
		t.Run(string(fs), func(t *testing.T) {
			skipWithoutFilesystem(t, fs)
			s, d, target := newMountedDisk(t, fs, 512*volume.MiB)
			file := filepath.Join(target, "file")
			if err := writeSynced(file, []byte("kept")); err != nil {
				t.Fatal(err)
			}
			shutDownFilesystem(t, target)
			d.resize(t, volume.GiB)
			_, err := s.Grow(t.Context(), GrowRequest{MountPoint: target, Device: d.open(t)})
			wantShutDown(t, fs, err)
			if m, mounted, err := s.FindMount(target); err != nil || !mounted || m.MountPoint != target {
				t.Fatalf("FindMount: %+v, %v, %v", m, mounted, err)
			}
			unmount(t, s, target)
			if _, mounted, err := s.FindMount(target); err != nil || mounted {
				t.Fatalf("after Unmount: mounted %v, %v; want not mounted", mounted, err)
			}
			if err := s.Check(t.Context(), d.open(t), fs); err != nil {
				t.Fatal(err)
			}
			d.mountAt(t, s, fs, target)
			if data, err := os.ReadFile(file); err != nil || string(data) != "kept" {
				t.Fatalf("the synced file reads %q, %v; want its content", data, err)
			}
			if fs.IsExt() && !hasResourceCapability(t) {
				return
			}
			if g := d.grow(t, s, target); g.After != volume.GiB {
				t.Fatalf("growth after the new mount: %+v, want 1 GiB", g)
			}
			unmount(t, s, target)
			d.fsck(t, fs)
		})
	}
}

// wantShutDown accepts two errors: newer kernels list ext4 as shut down, and with older
// ones only the growth fails.
func wantShutDown(t *testing.T, fs Type, err error) {
	t.Helper()
	if fs.IsExt() && !hasResourceCapability(t) && strings.Contains(err.Error(), "CAP_SYS_RESOURCE") {
		volumetest.WantKind(t, err, volume.KindPrecondition, "CAP_SYS_RESOURCE", "SYS_RESOURCE")
		return
	}
	volumetest.WantKind(t, err, volume.KindPrecondition, "shut down", "mounted again")
}

// TestRealGrowOnFullStorage: the first request must fail and name the storage, and no later
// one may take the size in memory for a growth.
func TestRealGrowOnFullStorage(t *testing.T) {
	const grown = 4 * volume.GiB
	for _, fs := range []Type{TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			skipWithoutGrowth(t, fs)
			s, d, fill := New(Options{}), newDiskOnTmpfs(t, 160*volume.MiB), make([]byte, volume.MiB)
			d.resize(t, volume.GiB)
			d.mkfs(t, fs)
			target := d.mount(t, s, fs)
			file := filepath.Join(target, "file")
			if err := writeSynced(file, []byte("kept")); err != nil {
				t.Fatal(err)
			}
			filler := filepath.Join(filepath.Dir(d.file), "filler")
			f, err := os.Create(filler)
			for err == nil {
				_, err = f.Write(fill)
			}
			if !errors.Is(err, unix.ENOSPC) || f.Close() != nil {
				t.Fatal(err)
			}
			d.resize(t, grown)
			req := GrowRequest{MountPoint: target, Device: d.open(t), Required: grown}
			_, err = s.Grow(t.Context(), req)
			if fs == TypeBtrfs { // accepts the request, and fails at the commit
				volumetest.WantKind(t, err, volume.KindPrecondition, "has become read-only", "has free space")
			} else {
				volumetest.WantKind(t, err, volume.KindPrecondition, "the storage below "+d.device+" may be full", "free space")
			}
			for range 3 {
				if g, err := s.Grow(t.Context(), req); err == nil || volume.KindOf(err) != volume.KindPrecondition {
					t.Errorf("next growth: %+v, %v; want kind Precondition", g, err)
				}
			}
			if err := s.CheckHealth(t.Context(), d.open(t), target); fs != TypeXFS { // XFS undoes the growth
				volumetest.WantKind(t, err, volume.KindPrecondition, "", "check that the storage below has free space")
			}
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			unmount(t, s, target)
			if err := s.Check(t.Context(), d.open(t), fs); err != nil {
				t.Fatal(err)
			}
			d.mountAt(t, s, fs, target)
			if g := d.grow(t, s, target); g.After != grown {
				t.Fatalf("growth with free space in the storage: %+v, want the full size", g)
			}
			if data, err := os.ReadFile(file); err != nil || string(data) != "kept" {
				t.Fatalf("the synced file reads %q, %v; want its content", data, err)
			}
			unmount(t, s, target)
			d.fsck(t, fs)
		})
	}
}

func TestRealGrowWaitsForTheThaw(t *testing.T) {
	for _, fs := range []Type{TypeExt3, TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			skipWithoutGrowth(t, fs)
			s, d, target := newMountedDisk(t, fs, 512*volume.MiB)
			d.resize(t, volume.GiB)
			dev, thaw := d.open(t), freeze(t, target)
			type result struct {
				g   Growth
				err error
			}
			done := make(chan result, 1)
			go func() {
				g, err := s.Grow(context.WithoutCancel(t.Context()), GrowRequest{MountPoint: target, Device: dev})
				done <- result{g, err}
			}()
			select {
			case r := <-done:
				t.Errorf("a growth returned while the filesystem was frozen: %+v", r)
				done <- r
			case <-time.After(300 * time.Millisecond):
			}
			thaw()
			if r := <-done; r.err != nil || r.g.After != volume.GiB {
				t.Fatalf("after the thaw: %+v, want 1 GiB", r)
			}
		})
	}
}

func TestRealGrowAThousandfold(t *testing.T) {
	for fs, from := range map[Type]volume.Size{TypeExt4: volume.GiB, TypeXFS: volume.GiB, TypeBtrfs: volume.GiB} {
		t.Run(string(fs), func(t *testing.T) {
			skipWithoutGrowth(t, fs)
			s, d, target := newMountedDisk(t, fs, from)
			d.resize(t, 1200*from)
			start := time.Now()
			if g := d.grow(t, s, target); g.After != 1200*from {
				t.Fatalf("growth %+v, want a size of %s", g, 1200*from)
			}
			t.Log(fs, " x1200 in ", time.Since(start).Round(time.Millisecond), strconv.Quote(d.device))
		})
	}
}
