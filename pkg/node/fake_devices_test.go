package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/node/internal/inspect"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// fakeDevices implements Devices.
type fakeDevices struct{ *machine }

func (f fakeDevices) ByPath(path string) (blockdev.Device, error) {
	leave, _ := f.startCall("by-path")
	defer leave()
	switch d, ok := f.diskAt(path); {
	case ok:
		return device(d, path), nil
	case d != nil:
		return blockdev.Device{}, volume.Errorf(volume.KindInternal, "%s: %w", path, volume.ErrGone)
	}
	var st unix.Stat_t
	if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
		for _, d := range f.disks {
			switch {
			case d.number != unix.Minor(st.Rdev):
			case unix.Major(st.Rdev) == diskMajor && d.connected:
				return device(d, d.path), nil
			case unix.Major(st.Rdev) == cryptMajor && d.hasMapping():
				return device(d, d.path+"-crypt"), nil
			}
		}
		if major := unix.Major(st.Rdev); major == diskMajor || major == cryptMajor {
			return blockdev.Device{}, volume.Errorf(volume.KindInternal, "cannot identify the device behind the node %s: %w",
				path, volume.ErrGone)
		}
	}
	if strings.HasPrefix(path, "/dev/fake") { // the kernel's own name
		return blockdev.Device{}, volume.Errorf(volume.KindInternal, "%s: %w", path, volume.ErrGone)
	}
	return blockdev.Device{}, volume.Errorf(volume.KindInternal, "%s is no block device", path)
}

func (f fakeDevices) ByNumber(major, minor uint32) (blockdev.Device, error) {
	leave, err := f.startCall("by-number")
	defer leave()
	if err != nil {
		return blockdev.Device{}, err
	}
	for _, d := range f.disks {
		switch {
		case d.number != minor:
		case major == cryptMajor && d.hasMapping():
			return device(d, d.path+"-crypt"), nil
		case major == diskMajor && d.connected:
			return device(d, d.path), nil
		}
	}
	if major != diskMajor && major != cryptMajor { // foreign devices
		return blockdev.Device{Major: major, Minor: minor, Path: fmt.Sprintf("/dev/other%d", minor)}, nil
	}
	return blockdev.Device{}, volume.Errorf(volume.KindInternal, "no block device %d:%d: %w", major, minor, volume.ErrGone)
}

func (f fakeDevices) Stack(dev blockdev.Device) ([]blockdev.Device, error) {
	if dev.Major == cryptMajor {
		disk, err := f.ByNumber(diskMajor, dev.Minor)
		return []blockdev.Device{dev, disk}, err
	}
	return []blockdev.Device{dev}, nil
}

func (f fakeDevices) Holders(dev blockdev.Device) ([]blockdev.Device, error) {
	leave, err := f.startCall("holders")
	defer leave()
	if err != nil {
		return nil, err
	}
	d, err := f.diskOfDevice(dev)
	if err != nil || dev.Major == cryptMajor || !d.hasMapping() || d.mappingGone() {
		return nil, err
	}
	return []blockdev.Device{device(d, d.path+"-crypt")}, nil
}

func (f fakeDevices) Size(dev blockdev.Device) (volume.Size, error) {
	leave, err := f.startCall("size")
	defer leave()
	if err != nil {
		return 0, err
	}
	d, err := f.diskOfDevice(dev)
	if err != nil {
		return 0, err
	}
	return d.sizeOf(dev.Number()), nil
}

// fakeHandle is an open device. Its calls fail once it is closed or the disk was pulled out, also
// after the disk is plugged in again.
type fakeHandle struct {
	f       fakeDevices
	d       *fakeDisk
	dev     blockdev.Device
	plugged int
	closed  *bool
}

func (f fakeDevices) Open(ctx context.Context, dev blockdev.Device) (inspect.OpenDevice, error) {
	leave, err := f.startCall("open")
	defer leave()
	if err == nil {
		err = checkInTime(ctx, "open")
	}
	if err != nil {
		return nil, err
	}
	d, err := f.diskOfDevice(dev)
	if err != nil {
		return nil, err
	}
	f.open++
	*d.descriptors(dev.Number())++
	return fakeHandle{f, d, dev, d.plugCount, new(bool)}, nil
}

// usable returns the error of a handle that is closed or whose disk is gone. The machine is locked.
func (h fakeHandle) usable() error {
	switch {
	case *h.closed:
		return volume.Errorf(volume.KindInternal, "%s: %w", h.dev.Path, os.ErrClosed)
	case h.d.connected && h.d.plugCount == h.plugged:
		return nil
	case h.dev.Major == cryptMajor: // it is still there, and its disk is not
		return volume.Errorf(volume.KindInternal, "%s: %w", h.dev.Path, unix.EIO)
	default:
		return volume.Errorf(volume.KindInternal, "%s: %w", h.dev.Path, unix.ENODEV)
	}
}

func (h fakeHandle) Path() string { return h.dev.Path }

func (h fakeHandle) Number() blockdev.DeviceNumber { return h.dev.Number() }

func (h fakeHandle) CheckPath() error { return nil }

func (h fakeHandle) BlockSize() (volume.Size, error) { return 512, nil }

func (h fakeHandle) ReadAt([]byte, int64) (int, error) { return 0, errors.New("a fake has no content") }

func (h fakeHandle) Size() (volume.Size, error) {
	leave, err := h.f.startCall("size")
	defer leave()
	return h.d.sizeOf(h.dev.Number()), errors.Join(err, h.usable())
}

func (h fakeHandle) IsReadOnly() (bool, error) {
	leave, err := h.f.startCall("read-only")
	defer leave()
	return h.d.refusesWrites(h.dev.Number()), errors.Join(err, h.usable())
}

func (h fakeHandle) OpenWriter() (blockdev.Writer, error) {
	return nil, errors.New("a fake has no content")
}

func (h fakeHandle) Close() error {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	if *h.closed {
		return os.ErrClosed
	}
	*h.closed = true
	h.f.open--
	if h.plugged == h.d.plugCount || h.dev.Major == cryptMajor { // a mapping stays after its disk
		*h.d.descriptors(h.dev.Number())--
	}
	return nil
}

func (f fakeDevices) WatchSizes(ctx context.Context, changed func(blockdev.SizeEvent)) error {
	for {
		select {
		case e := <-f.events:
			changed(e)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f fakeDevices) IsReadOnly(dev blockdev.Device) (bool, error) {
	leave, err := f.startCall("read-only")
	defer leave()
	d, _ := f.diskAt(dev.Path)
	return d != nil && d.refusesWrites(dev.Number()), err
}

func (f fakeDevices) DiscardLimit(dev blockdev.Device) (volume.Size, error) {
	leave, err := f.startCall("discardLimit")
	defer leave()
	if err != nil {
		return 0, err
	}
	d, err := f.diskOfDevice(dev)
	if err != nil || d.refusesDiscards[dev.Major] {
		return 0, err
	}
	return volume.GiB, nil
}

func (f fakeDevices) AwaitSize(ctx context.Context, dev blockdev.Device, want volume.Size) (volume.Size, error) {
	leave, err := f.startCall("await")
	if at, ok := ctx.Deadline(); ok && err == nil {
		if d, err := f.diskOfDevice(dev); err == nil {
			d.awaitTimeout = time.Until(at)
		}
	}
	leave()
	if err == nil {
		err = checkInTime(ctx, "open "+dev.Path)
	}
	if err != nil {
		return 0, err
	}
	var size volume.Size
	for {
		now, done, err := f.rescan(dev, want)
		if err != nil {
			return size, err // the last size that was read, like blockdev.System.AwaitSize
		}
		if size = now; done {
			return size, nil
		}
		if err := operation.Sleep(ctx, 100*time.Millisecond); err != nil {
			return size, volume.Errorf(volume.KindOf(err), "%s has %s, not %s: %w", dev.Path, size, want, err)
		}
	}
}

// rescan makes a disk show the size of the backend, unless it ignores rescans. It returns the size
// that the disk shows, and whether AwaitSize reports success.
func (f fakeDevices) rescan(dev blockdev.Device, want volume.Size) (size volume.Size, done bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, err := f.diskOfDevice(dev)
	if err != nil {
		return 0, false, err
	}
	if d.deviceSize < want && !d.ignoresRescan {
		d.deviceSize = max(d.deviceSize, d.backendSize-d.overhead)
	}
	return d.deviceSize, d.deviceSize >= want || d.reportsFalseSize, nil
}
