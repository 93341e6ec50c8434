package filesystem

import (
	"context"
	"errors"
	"io"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Device is an open block device; *blockdev.Handle implements it. The caller has verified
// that it is the device of the volume, and keeps it open until the call has returned: as
// long as the device is open, the kernel gives its number to no other disk.
type Device interface {
	io.ReaderAt
	// Path returns a device node of the device, for mount(2) and for programs. Call
	// CheckPath directly before each use of it.
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
		err = volume.Errorf(volume.KindInternal, "cannot use device %s: it reports a size of %d bytes",
			dev.Path(), size.Bytes()).
			WithRemedy("check that the volume is still attached to this node")
	}
	return size, err
}

// awaitDeviceRead reads from a device within the time of ctx; see awaitCall.
func awaitDeviceRead[T any](ctx context.Context, s *System, dev Device, read func() (T, error)) (T, error) {
	message := "device " + dev.Path() + " does not answer"
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
			WithRemedy("check the kernel log of this node, and that device " + device + " is still attached to it")
	}
	return v, err
}

// unreadableError is the error for a device that cannot be read, so that nothing is known
// about its content. It keeps the kind of an ended context.
func unreadableError(path string, err error) error {
	if isContextError(err) {
		return volume.Wrap(err, "cannot read device "+path, "")
	}
	return volume.Errorf(volume.KindInternal, "cannot read device %s, so its content is unknown: %w", path, err).
		WithRemedy("check the kernel log of this node, and that the volume is still attached to it")
}

func isContextError(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// closeQuietly closes a file that was only read from: a failure to close loses nothing.
func closeQuietly(c io.Closer) { _ = c.Close() }
