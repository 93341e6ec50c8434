package blockdev

import (
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// Handle is an open block device. While it is open, the kernel gives the number of the
// device to no other disk: virtio-blk, SCSI and NVMe disks free their number at the last
// close, and a loop device keeps its file until then. So a check of the disk's identity
// stays true until Close, and a device node with this number leads to this device only.
//
// The handle of a disk that was removed returns errors, never the content of another
// disk. A Handle is safe for concurrent use. Close does not wait for a read that hangs;
// the number stays taken until that read ends.
type Handle struct {
	Device Device
	sys    *System
	file   *os.File
}

// Path returns a device node of the device, for a program that takes a path. Call
// CheckPath directly before the program starts.
func (h *Handle) Path() string { return h.Device.Path }

// CheckPath returns an error of kind Internal unless Path still leads to this device.
func (h *Handle) CheckPath() error {
	const remedy = "check that the volume is still attached to this node"
	number, err := h.sys.kernel.Stat(h.Path())
	if err != nil {
		return volume.Errorf(volume.KindInternal, "cannot check that the device node %s leads to block device %s: %w",
			h.Path(), h.Number(), err).WithRemedy(remedy)
	}
	if number != h.Number() {
		return volume.Errorf(volume.KindInternal,
			"the device node %s now leads to block device %s, not to the volume's device %s",
			h.Path(), number, h.Number()).WithRemedy(remedy)
	}
	return nil
}

// Number returns the number of the device.
func (h *Handle) Number() DeviceNumber { return h.Device.Number() }

// String describes the device for messages; see Device.String.
func (h *Handle) String() string { return h.Device.String() }

// ReadAt reads from the device itself, past the page cache; see NewUncachedReader.
func (h *Handle) ReadAt(p []byte, offset int64) (int, error) {
	return NewUncachedReader(h.file).ReadAt(p, offset)
}

// Size reads the size of the device, in bytes (BLKGETSIZE64). The error is of kind
// Internal.
func (h *Handle) Size() (volume.Size, error) {
	size, err := h.sys.kernel.Size(h.file)
	if err != nil {
		return 0, volume.Errorf(volume.KindInternal, "cannot read the size of %s: %w", h.Device, err)
	}
	return volume.Size(size), nil
}

// BlockSize reads the size of the device's logical blocks (BLKSSZGET), the smallest unit
// that can be read or written: 512 or 4096 bytes. The error is of kind Internal.
func (h *Handle) BlockSize() (volume.Size, error) {
	size, err := h.sys.kernel.BlockSize(h.file)
	if err != nil {
		return 0, volume.Errorf(volume.KindInternal, "cannot read the block size of %s: %w", h.Device, err)
	}
	return volume.Size(size), nil
}

// IsReadOnly reports whether the kernel refuses writes to the device (BLKROGET). The
// error is of kind Internal.
func (h *Handle) IsReadOnly() (bool, error) {
	readOnly, err := h.sys.kernel.IsReadOnly(h.file)
	if err != nil {
		return false, volume.Errorf(volume.KindInternal, "cannot read whether %s is read-only: %w", h.Device, err)
	}
	return readOnly, nil
}

// Writer is a block device that one program has open for writing, exclusively.
type Writer interface {
	io.WriterAt
	io.Closer
	// Sync returns once all written data is on the device.
	Sync() error
}

// OpenWriter opens the device a second time, for writing and exclusively (O_EXCL), and
// checks the number again. Kinds: Deadline while another program has the device open
// exclusively, while it is mounted, or while another device rests on it; Internal. The
// caller closes the Writer.
func (h *Handle) OpenWriter() (Writer, error) {
	f, err := h.sys.open(h.Device, os.O_RDWR|unix.O_EXCL)
	if err != nil {
		return nil, err // a nil *os.File would make a Writer that is not nil
	}
	return f, nil
}

// Close closes the device. A Writer of OpenWriter stays open.
func (h *Handle) Close() error { return h.file.Close() }
