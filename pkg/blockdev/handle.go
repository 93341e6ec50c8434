package blockdev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/growvol/growvol/pkg/operation"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// DeviceNumber identifies a block device, or the anonymous device of a
// filesystem that has none of its own (btrfs, tmpfs).
type DeviceNumber struct{ Major, Minor uint32 }

// String renders "7:3", as /sys/dev/block and mountinfo do.
func (n DeviceNumber) String() string { return fmt.Sprintf("%d:%d", n.Major, n.Minor) }

// Handle is an open block device. While it is open the kernel gives the
// device's number to no other disk: virtio-blk, SCSI and NVMe disks free their
// number at the last close, and a loop device keeps its file until then. So a
// check of the disk's identity that is made while the handle is open stays
// true until Close; and a device node with the same number leads to this
// device and no other.
//
// A handle of a disk that was pulled out answers with errors, never with the
// content of another disk. Handle is safe for concurrent use. Close does not
// wait for a read that hangs; the number stays taken until that read ends.
type Handle struct {
	Device Device
	sys    *System
	file   *os.File
}

// Open opens the device for reading and checks that what it opened has the
// number of d: a device node can outlive its device, and names are given to
// new devices. The kernel reads the partition table of some disks when they
// are opened, so Open can hang with the disk; see OpenContext.
func (s *System) Open(d Device) (*Handle, error) {
	f, err := s.open(d, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return &Handle{Device: d, sys: s, file: f}, nil
}

// OpenContext is Open within the time of ctx. Kinds: those of Open; Deadline or
// Canceled when ctx ended first.
func (s *System) OpenContext(ctx context.Context, d Device) (*Handle, error) {
	f, err := s.OpenFile(ctx, d)
	if err != nil {
		return nil, err
	}
	return &Handle{Device: d, sys: s, file: f}, nil
}

// awaitCall makes a call that can hang with the device, within the time of ctx.
// One that hangs goes on without its caller; until it ends no other of this
// sort begins on the device, so that a device that hangs costs one thread,
// however often it is tried.
func (s *System) awaitCall(ctx context.Context, what string, d Device, call func() error) error {
	_, err := operation.AwaitExclusive(ctx, &s.calls, what+" "+d.Number().String(), func() (struct{}, error) {
		return struct{}{}, call()
	})
	if err != nil && err == ctx.Err() { //nolint:errorlint // all others have their message
		return noAnswerError(what, d, err)
	}
	return err
}

// noAnswerError is the error for a device that did not answer in the call's time.
func noAnswerError(what string, d Device, err error) error {
	return volume.Errorf(volume.KindOf(err), "%s %s: the device does not answer: %w", what, d, err).
		WithRemedy("check the kernel log of this node and the connection of the volume")
}

// open opens the device node of d and compares its number with that of d. The
// error is of kind Deadline when O_EXCL is among the flags and something else
// claims the device.
func (s *System) open(d Device, flags int) (*os.File, error) {
	f, err := os.OpenFile(d.Path, flags, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, volume.Errorf(volume.KindInternal, "the kernel has block device %s (%s), but its device node is missing: %w",
			d.Name, d.Number(), err).
			WithRemedy("mount the host's /dev (devtmpfs) into this container")
	case errors.Is(err, unix.EBUSY):
		return nil, volume.Errorf(volume.KindDeadline, "%s is in use by a mount or by another program: %w", d, err).
			WithRemedy("Kubernetes retries this automatically; if it stays so, " +
				"find what uses the device on this node (lsblk, fuser)")
	case err != nil:
		return nil, volume.Errorf(volume.KindInternal, "open %s: %w", d, err)
	}
	number, err := s.kernel.Fstat(f)
	if err == nil && number != d.Number() {
		err = fmt.Errorf("it is device %s", number)
	}
	if err != nil {
		_ = f.Close() // only read from
		return nil, volume.Errorf(volume.KindInternal, "the device node %s does not lead to block device %s (%s): %w",
			d.Path, d.Name, d.Number(), err).
			WithRemedy("the device node is stale; check that the volume is still attached to this node")
	}
	return f, nil
}

// ReadStart reads the beginning of the device into p and returns how many
// bytes there are: fewer than len(p) on a smaller device.
func (s *System) ReadStart(d Device, p []byte) (int, error) {
	h, err := s.Open(d)
	if err != nil {
		return 0, err
	}
	defer h.Close() //nolint:errcheck // only read from
	n, err := h.ReadAt(p, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// Path returns a device node of the device, for a program that takes a path. Call
// CheckPath directly before the program starts.
func (h *Handle) Path() string { return h.Device.Path }

// CheckPath returns an error of kind Internal unless Path still leads to this device.
func (h *Handle) CheckPath() error {
	const remedy = "check that the volume is still attached to this node"
	number, err := h.sys.kernel.Stat(h.Path())
	if err != nil {
		return volume.Errorf(volume.KindInternal, "the device node %s no longer leads to block device %s: %w",
			h.Path(), h.Number(), err).WithRemedy(remedy)
	}
	if number != h.Number() {
		return volume.Errorf(volume.KindInternal,
			"the device node %s now leads to block device %s, not to the volume's device %s: nothing was changed",
			h.Path(), number, h.Number()).WithRemedy(remedy)
	}
	return nil
}

// Number identifies the device; see DeviceNumber.
func (h *Handle) Number() DeviceNumber { return h.Device.Number() }

// String names the device for messages.
func (h *Handle) String() string { return h.Device.String() }

// ReadAt reads from the device, past the page cache; see NewUncachedReader.
func (h *Handle) ReadAt(p []byte, at int64) (int, error) {
	return NewUncachedReader(h.file).ReadAt(p, at)
}

// Size reads the device's size by BLKGETSIZE64.
func (h *Handle) Size() (volume.Size, error) {
	size, err := h.sys.kernel.Size(h.file)
	if err != nil {
		return 0, volume.Errorf(volume.KindInternal, "read the size of %s: %w", h.Device, err)
	}
	return volume.Size(size), nil
}

// BlockSize reads the size of the device's logical blocks (BLKSSZGET), the
// least that can be read or written: 512 or 4096 bytes.
func (h *Handle) BlockSize() (volume.Size, error) {
	size, err := h.sys.kernel.BlockSize(h.file)
	if err != nil {
		return 0, volume.Errorf(volume.KindInternal, "read the block size of %s: %w", h.Device, err)
	}
	return volume.Size(size), nil
}

// IsReadOnly reports whether the kernel refuses writes to the device (BLKROGET).
func (h *Handle) IsReadOnly() (bool, error) {
	ro, err := h.sys.kernel.IsReadOnly(h.file)
	if err != nil {
		return false, volume.Errorf(volume.KindInternal, "read whether %s is read-only: %w", h.Device, err)
	}
	return ro, nil
}

// Writer is a block device that is open for writing, for nobody else.
type Writer interface {
	io.WriterAt
	io.Closer
	// Sync returns once what was written is on the device.
	Sync() error
}

// OpenWriter opens the device a second time, for writing, and checks the number
// again. The kernel lets one program at a time have a device so (O_EXCL), and
// none while the device is mounted or another device rests on it; the error
// is then of kind Deadline. The caller closes the Writer.
func (h *Handle) OpenWriter() (Writer, error) {
	f, err := h.sys.open(h.Device, os.O_RDWR|unix.O_EXCL)
	if err != nil {
		return nil, err // and no *os.File that is nil
	}
	return f, nil
}

// Close closes the device. What was got from Writer stays open.
func (h *Handle) Close() error { return h.file.Close() }
