package filesystem

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// TestRealGrowUnderAWriter takes each filesystem from a blank device through five online
// growths under a writer to a clean check. It asks for each growth three times.
func TestRealGrowUnderAWriter(t *testing.T) {
	for _, fs := range []Type{TypeExt2, TypeExt3, TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			skipWithoutGrowth(t, fs)
			ctx, s := t.Context(), New(Options{})
			d := newDisk(t, 512*volume.MiB)
			marker := filepath.Join(t.TempDir(), "marker")
			if err := s.Format(ctx, FormatRequest{Device: d.open(t), Type: fs, Marker: marker}); err != nil {
				t.Fatal(err)
			}
			if err := s.Check(ctx, d.open(t), fs); err != nil {
				t.Fatal(err)
			}
			target := d.mount(t, s, fs)
			w := startWriter(t, target)
			for _, size := range []volume.Size{
				700 * volume.MiB, 1 * volume.GiB, 2 * volume.GiB, 4*volume.GiB + 100*volume.MiB,
				9 * volume.GiB,
			} {
				d.resize(t, size)
				w.awaitMore(t)
				g := d.grow(t, s, target)
				w.awaitMore(t)
				if g.Method != MethodIoctl || g.DeviceSize != size || g.After != size || g.Before >= g.After || g.Type != fs {
					t.Fatalf("growth to %s: %+v, want that size by the ioctl", size, g)
				}
				for range 2 {
					if again := d.grow(t, s, target); again.Method != MethodNone || again.Before != size || again.After != size {
						t.Fatalf("second growth at %s: %+v, want nothing to do", size, again)
					}
				}
				if geo := mountedGeometry(t, s, d.open(t), target); geo.size() != size || geo.fsType != fs ||
					geo.blockSize != 4096 {
					t.Fatalf("geometry: %+v; want the size of the device, %s, in blocks of 4096 bytes", geo, size)
				}
			}
			w.stop(t)
			unmount(t, s, target)
			if geo := unmountedGeometry(t, d.open(t)); geo.size() != 9*volume.GiB {
				t.Fatalf("geometry of the unmounted filesystem: %+v; want 9 GiB", geo)
			}
			d.fsck(t, fs)
			d.mountAt(t, s, fs, target)
			w.verify(t)
		})
	}
}

// TestRealGrowOfAFullFilesystem grows a filesystem without a free block.
func TestRealGrowOfAFullFilesystem(t *testing.T) {
	for _, fs := range []Type{TypeExt3, TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			skipWithoutGrowth(t, fs)
			s, d, target := newMountedDisk(t, fs, 320*volume.MiB)
			fillUp(t, target)
			d.resize(t, volume.GiB)
			if g := d.grow(t, s, target); g.After != volume.GiB {
				t.Fatalf("growth %+v, want a size of 1 GiB", g)
			}
			usage, err := s.ReadUsage(wantMount(t, s, target, target))
			if err != nil || usage.Available < 400*volume.MiB {
				t.Fatalf("usage after the growth: %+v, %v; want at least 400 MiB available", usage, err)
			}
			unmount(t, s, target)
			d.fsck(t, fs)
		})
	}
}

func fillUp(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for written := 0; ; {
		n, err := f.Write(block)
		if written += n; err != nil {
			break // the filesystem is full
		}
		if written > 2<<30 {
			t.Fatal("the filesystem does not fill up")
		}
	}
	if err := f.Close(); err != nil {
		t.Log("close of the filling file: ", err)
	}
}

// TestRealConcurrentGrowsSucceed grows one filesystem by eight requests at once.
func TestRealConcurrentGrowsSucceed(t *testing.T) {
	for _, fs := range []Type{TypeExt3, TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			skipWithoutGrowth(t, fs)
			s, d, target := newMountedDisk(t, fs, 512*volume.MiB)
			d.resize(t, 5*volume.GiB)
			dev := d.open(t)
			var group sync.WaitGroup
			errs := make([]error, 8)
			sizes := make([]volume.Size, 8)
			for i := range errs {
				group.Go(func() {
					var g Growth
					g, errs[i] = s.Grow(t.Context(), GrowRequest{MountPoint: target, Device: dev})
					sizes[i] = g.After
				})
			}
			group.Wait()
			for i, err := range errs {
				if err != nil || sizes[i] != 5*volume.GiB {
					t.Errorf("request %d: %v, size %s; want 5 GiB", i, err, sizes[i])
				}
			}
			unmount(t, s, target)
			d.fsck(t, fs)
		})
	}
}

// TestRealGrowRefusesReadOnly has a read-only mount, a read-only filesystem and a read-only
// device.
func TestRealGrowRefusesReadOnly(t *testing.T) {
	for _, fs := range []Type{TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			skipWithoutFilesystem(t, fs)
			s, d, target := newMountedDisk(t, fs, 512*volume.MiB)
			bind := t.TempDir()
			if err := s.Bind(t.Context(), BindRequest{Source: target, Target: bind, Options: []string{"ro"}}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unmount(t, s, bind) })
			if err := os.WriteFile(filepath.Join(bind, "x"), nil, 0o600); err == nil {
				t.Error("a write through the read-only bind mount succeeded")
			}
			if g, err := s.Grow(t.Context(), GrowRequest{MountPoint: bind, Device: d.open(t)}); err != nil ||
				g.Method != MethodNone {
				t.Fatalf("growth %+v, %v; want nothing to do", g, err)
			}
			d.resize(t, volume.GiB)
			_, err := s.Grow(t.Context(), GrowRequest{MountPoint: bind, Device: d.open(t)})
			volumetest.WantKind(t, err, volume.KindPrecondition, "read-only", "another mount that is writable")
			unmount(t, s, bind)
			unmount(t, s, target)

			d.mountAt(t, s, fs, target, "ro")
			_, err = s.Grow(t.Context(), GrowRequest{MountPoint: target, Device: d.open(t)})
			volumetest.WantKind(t, err, volume.KindPrecondition, "read-only", "mount the volume writable")
			unmount(t, s, target)

			mustRun(t, "blockdev", "--setro", d.device)
			t.Cleanup(func() { mustRun(t, "blockdev", "--setrw", d.device) }) // the flag outlasts the file of the loop device
			d.mountAt(t, s, fs, target, "ro")
			_, err = s.Grow(t.Context(), GrowRequest{MountPoint: target, Device: d.open(t)})
			volumetest.WantKind(t, err, volume.KindPrecondition, "read-only", "mount the volume writable")
			unmount(t, s, target)
			d.fsck(t, fs)
		})
	}
}

// TestRealGrowRefusesASmallerDevice: the kernel would shrink XFS and btrfs, and return
// EINVAL for ext.
func TestRealGrowRefusesASmallerDevice(t *testing.T) {
	for _, fs := range []Type{TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			skipWithoutFilesystem(t, fs)
			s, d, target := newMountedDisk(t, fs, volume.GiB)
			d.resize(t, volume.GiB-8*volume.MiB)
			_, err := s.Grow(t.Context(), GrowRequest{MountPoint: target, Device: d.open(t)})
			volumetest.WantKind(t, err, volume.KindPrecondition, "more than its device", "expand the claim to at least 1 GiB")
			if geo := mountedGeometry(t, s, d.open(t), target); geo.size() != volume.GiB {
				t.Fatalf("geometry after the refusal: %+v; want 1 GiB", geo)
			}
			d.resize(t, volume.GiB)
		})
	}
}

func TestRealGrowFailsBeforeTheDeviceHasGrown(t *testing.T) {
	for _, fs := range []Type{TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			skipWithoutFilesystem(t, fs)
			s, d, target := newMountedDisk(t, fs, 512*volume.MiB)
			_, err := s.Grow(t.Context(), GrowRequest{MountPoint: target, Device: d.open(t), Required: volume.GiB})
			volumetest.WantKind(t, err, volume.KindDeadline, "has 512 MiB, not yet the required 1 GiB", "storage system")
		})
	}
}

// TestRealGrowRefusesAnotherMount also has directories on which nothing is mounted.
func TestRealGrowRefusesAnotherMount(t *testing.T) {
	skipWithoutFilesystem(t, TypeXFS)
	s, d, other := New(Options{}), newDisk(t, 320*volume.MiB), newDisk(t, 320*volume.MiB)
	d.mkfs(t, TypeXFS)
	target := d.mount(t, s, TypeXFS)
	_, err := s.Grow(t.Context(), GrowRequest{MountPoint: target, Device: other.open(t)})
	volumetest.WantKind(t, err, volume.KindPrecondition, "not of the volume's device "+other.device, "staged again")
	inside := filepath.Join(target, "dir")
	if err := os.Mkdir(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{inside, t.TempDir(), filepath.Join(target, "missing")} {
		_, err = s.Grow(t.Context(), GrowRequest{MountPoint: path, Device: d.open(t)})
		volumetest.WantKind(t, err, volume.KindPrecondition, "no filesystem is mounted at "+path, "mounted again")
	}
}

// TestRealGrowLeavesOutAShortTail grows to a tail that is too short to be used: each
// request succeeds.
func TestRealGrowLeavesOutAShortTail(t *testing.T) {
	for _, tc := range []struct {
		fs   Type
		tail volume.Size
	}{
		{TypeExt4, 256 * volume.KiB},
		{TypeExt4, 400 * volume.KiB},
		{TypeExt3, 400 * volume.KiB},
		{TypeExt4, 512},
		{TypeXFS, 32 * volume.KiB},
		{TypeXFS, 128 * volume.KiB},
		{TypeXFS, 512},
		{TypeBtrfs, 512},
		{TypeBtrfs, 3584},
	} {
		t.Run(string(tc.fs)+"+"+tc.tail.String(), func(t *testing.T) {
			skipWithoutGrowth(t, tc.fs)
			s, d, target := newMountedDisk(t, tc.fs, volume.GiB)
			d.resize(t, volume.GiB+tc.tail)
			for range 3 {
				g := d.grow(t, s, target)
				if g.Before != volume.GiB || g.After != volume.GiB || g.DeviceSize != volume.GiB+tc.tail {
					t.Fatalf("growth %+v, want a size of 1 GiB before and after", g)
				}
			}
			// A longer tail is used to its last block.
			d.resize(t, volume.GiB+64*volume.MiB)
			if g := d.grow(t, s, target); g.After != volume.GiB+64*volume.MiB || g.Method != MethodIoctl {
				t.Fatalf("growth %+v, want a size of 1 GiB and 64 MiB by the ioctl", g)
			}
			unmount(t, s, target)
			d.fsck(t, tc.fs)
		})
	}
}

// TestRealGrowOfExtNeedsACapability runs only without CAP_SYS_RESOURCE.
func TestRealGrowOfExtNeedsACapability(t *testing.T) {
	skipWithoutFilesystem(t, TypeExt4)
	if hasResourceCapability(t) {
		t.Skip("this process has CAP_SYS_RESOURCE")
	}
	s, d, dir := newMountedDisk(t, TypeExt4, 512*volume.MiB)
	d.resize(t, volume.GiB)
	_, err := s.Grow(t.Context(), GrowRequest{MountPoint: dir, Device: d.open(t)})
	volumetest.WantKind(t, err, volume.KindPrecondition, "CAP_SYS_RESOURCE", "SYS_RESOURCE")
	// Without checkGrowable the explanation of the errno must say the same.
	m, err := s.kernel.openMount(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer closeQuietly(m)
	dev := d.open(t)
	g := &extGrower{mountedFilesystem: &mountedFilesystem{sys: s, mount: m, device: dev, mountPoint: dir}}
	volumetest.WantKind(t, g.explainError(context.Background(), g.resize(200000)), volume.KindPrecondition,
		"CAP_SYS_RESOURCE",
		"SYS_RESOURCE")
}
