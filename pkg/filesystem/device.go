package filesystem

import (
	"context"
	"errors"
	"io"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Device is an open block device; *blockdev.Handle is the real one. The caller has
// verified that it is the volume's, and keeps it open until the call has returned: as
// long as the device is open, its number leads to no other disk.
type Device interface {
	io.ReaderAt
	// Path returns a device node of the device, for mount(2) and for programs. Each
	// use of it follows a CheckPath.
	Path() string
	// CheckPath returns an error unless Path still leads to this device.
	CheckPath() error
	Number() blockdev.DeviceNumber
	// Size returns the size of the device, in bytes.
	Size() (volume.Size, error)
	// BlockSize returns the size of the device's logical blocks, in bytes.
	BlockSize() (volume.Size, error)
	// IsReadOnly reports whether the kernel refuses writes to the device.
	IsReadOnly() (bool, error)
	// OpenWriter opens the device for writing, exclusively. The error is of kind
	// Deadline while something else uses the device.
	OpenWriter() (blockdev.Writer, error)
}

// sizeOf returns the size of a device. A size of zero is an error: the disk was removed,
// or never had a medium.
func sizeOf(dev Device) (volume.Size, error) {
	size, err := dev.Size()
	if err == nil && size <= 0 {
		err = volume.Errorf(volume.KindInternal, "device %s reports a size of %d bytes; its content is unknown",
			dev.Path(), size.Bytes()).
			WithRemedy("check the connection of the volume to this node")
	}
	return size, err
}

// awaitDeviceRead reads from a device within the time of ctx; see awaitCall.
func awaitDeviceRead[T any](ctx context.Context, s *System, dev Device, read func() (T, error)) (T, error) {
	message := "device " + dev.Path() + " did not answer in time"
	return awaitCall(ctx, s, "device "+dev.Number().String(), message, dev.Path(), read)
}

// awaitMountRead reads from the mounted filesystem of a device within the time of ctx;
// see awaitCall. The device itself may be read at the same time.
func awaitMountRead[T any](
	ctx context.Context, s *System, dev Device, mountPoint string, read func() (T, error),
) (T, error) {
	message := "the filesystem at " + mountPoint + " does not answer"
	return awaitCall(ctx, s, "mount "+dev.Number().String(), message, dev.Path(), read)
}

// awaitCall makes a call that may hang, within the time of ctx; see
// operation.AwaitExclusive. message begins the error when ctx ends first.
func awaitCall[T any](ctx context.Context, s *System, key, message, device string, call func() (T, error)) (T, error) {
	v, err := operation.AwaitExclusive(ctx, &s.calls, key, call)
	if err != nil && err == ctx.Err() { //nolint:errorlint // an error of call has its own message
		err = volume.Errorf(volume.KindOf(err), "%s: %w", message, err).
			WithRemedy("check the kernel log of this node and the connection of the device " + device)
	}
	return v, err
}

// unreadableError is the error for a device whose content is unknown. It keeps the kind
// of an ended context.
func unreadableError(path string, err error) error {
	if isContextError(err) {
		return volume.Wrap(err, "read device "+path, "")
	}
	return volume.Errorf(volume.KindInternal, "device %s cannot be read, so its content is unknown: %w", path, err).
		WithRemedy("check the kernel log of this node and the connection of the volume")
}

func isContextError(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// closeQuietly closes a file that was only read from: a failure to close loses nothing.
func closeQuietly(c io.Closer) { _ = c.Close() }
