package losetup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// absentDevice is the number of a loop device that no machine has.
const absentDevice = 1 << 20

// releasedKernel offers absentDevice a number of times before it offers free devices: as
// if another process was just releasing the device that the kernel offers.
type releasedKernel struct {
	Kernel
	dev   string
	times int
}

func (k *releasedKernel) GetFree(control *os.File) (int, error) {
	if k.times > 0 {
		k.times--
		return absentDevice, nil
	}
	n, err := k.Kernel.GetFree(control)
	if err != nil {
		return n, err
	}
	name := fmt.Sprint("loop", n)
	if err := os.Symlink(filepath.Join("/dev", name), filepath.Join(k.dev, name)); !errors.Is(err, os.ErrExist) {
		return n, err
	}
	return n, nil
}

func TestBindSkipsDevicesThatAreBeingReleased(t *testing.T) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs root and loop devices: %v", err)
	}
	if err := control.Close(); err != nil {
		t.Fatal(err)
	}
	dev := t.TempDir()
	if err := os.Symlink("/dev/loop-control", filepath.Join(dev, "loop-control")); err != nil {
		t.Fatal(err)
	}
	// A device number for local use (240) without a driver: open fails with ENXIO.
	node := filepath.Join(dev, fmt.Sprint("loop", absentDevice))
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(240, 0))); err != nil {
		t.Skipf("needs device nodes: %v", err)
	}
	if _, err := os.Open(node); !errors.Is(err, unix.ENXIO) {
		t.Skipf("needs device nodes that can be opened: %v", err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(volume.MiB.Bytes()); err != nil {
		t.Fatal(err)
	}
	system := New()
	system.Dev, system.Kernel = dev, &releasedKernel{Kernel: Linux{}, dev: dev, times: 3}
	d, err := system.Bind(f, "x", false)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	loop, err := os.Open(d.Path)
	if err == nil {
		err = errors.Join(Clear(loop), loop.Close())
	}
	if err != nil {
		t.Errorf("detach %s: %v", d.Path, err)
	}
}

// statusKernel has a device with this status.
type statusKernel struct {
	Kernel
	status unix.LoopInfo64
	set    []uint32 // the flags of each SetStatus
}

func (k *statusKernel) Status(*os.File) (*unix.LoopInfo64, error) {
	status := k.status
	return &status, nil
}

func (k *statusKernel) SetStatus(_ *os.File, info *unix.LoopInfo64) error {
	k.set = append(k.set, info.Flags)
	return nil
}

// TestCancelClearLeavesOtherFilesAlone has devices that the kernel clears at the last close.
func TestCancelClearLeavesOtherFilesAlone(t *testing.T) {
	d := Device{Path: os.DevNull, file: fileID{dev: 1, inode: 2}}
	for inode, want := range map[uint64]bool{2: true, 3: false} {
		k := &statusKernel{status: unix.LoopInfo64{
			Device: 1, Inode: inode, Flags: unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO,
		}}
		isBound, err := (&System{Kernel: k}).CancelClear(d)
		if err != nil || isBound != want {
			t.Errorf("inode %d: got %t, %v, want %t", inode, isBound, err, want)
		}
		if want && !slices.Equal(k.set, []uint32{unix.LO_FLAGS_DIRECT_IO}) || !want && len(k.set) > 0 {
			t.Errorf("inode %d: set the flags %v; want the device of another file unchanged", inode, k.set)
		}
	}
}
