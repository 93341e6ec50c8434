package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// DeviceNumber identifies a block device, or the anonymous device of a
// filesystem that has none of its own (btrfs, tmpfs).
type DeviceNumber struct{ Major, Minor uint32 }

// String renders "7:3", as /sys/dev/block and mountinfo do.
func (d DeviceNumber) String() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// openDevice opens a block device and turns the errno into a message.
func (s *System) openDevice(path string, write bool) (deviceHandle, error) {
	d, err := s.kernel.openDevice(path, write)
	switch {
	case err == nil:
		return d, nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return nil, volume.Errorf(volume.Precondition, "device %s does not exist on this node: %w", path, err).
			WithRemedy("check that the volume is attached to this node")
	case errors.Is(err, unix.ENOTBLK):
		return nil, volume.Errorf(volume.Precondition, "%s is not a block device", path)
	case errors.Is(err, unix.EBUSY):
		return nil, volume.Errorf(volume.Precondition, "device %s is in use by a mount or another driver: %w", path, err)
	default:
		return nil, unreadable(path, err)
	}
}

// deviceSize reads BLKGETSIZE64 (linux/fs.h).
func deviceSize(d deviceHandle, path string) (volume.Size, error) {
	n, err := d.size()
	switch {
	case err != nil:
		return 0, unreadable(path, err)
	case n == 0 || n > math.MaxInt64:
		return 0, volume.Errorf(volume.Internal, "device %s reports a size of %d bytes; its content is unknown", path, n).
			WithRemedy("check the connection of the volume to this node")
	default:
		return volume.Size(n), nil
	}
}

// unreadable reports a device whose content is unknown. An ended context
// keeps its own kind.
func unreadable(path string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return volume.Wrap(err, "read device "+path, "")
	}
	return volume.Errorf(volume.Internal, "device %s cannot be read, so its content is unknown: %w", path, err).
		WithRemedy("look at the kernel log of this node and check the connection of the volume")
}

// closeQuietly closes what was only read: a failure to close loses nothing.
func closeQuietly(c io.Closer) { _ = c.Close() }

// readFile returns a small file, or nothing when it does not exist.
func readFile(path string) (data []byte, exists bool, err error) {
	data, err = os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	return data, err == nil, err
}
