package filesystem

import (
	"context"
	"io"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// Device is an open block device; *blockdev.Handle is the real one. The caller
// has confirmed that it is the volume, and keeps it open until the call has
// returned: as long as it is open, its number leads to no other disk.
type Device interface {
	io.ReaderAt
	// Path returns a device node of the device, for mount(2) and for programs. Each
	// use of it follows a CheckPath.
	Path() string
	// CheckPath returns an error unless Path still leads to this device.
	CheckPath() error
	Number() blockdev.DeviceNumber
	Size() (volume.Size, error)
	// BlockSize is the size of the device's logical blocks.
	BlockSize() (volume.Size, error)
	// IsReadOnly reports whether the kernel refuses writes to the device.
	IsReadOnly() (bool, error)
	// OpenWriter opens the device for writing, for nobody else. The error is of
	// kind Deadline while something else uses the device.
	OpenWriter() (blockdev.Writer, error)
}

// sizeOf reads the size of a device, which must have one.
func sizeOf(dev Device) (volume.Size, error) {
	size, err := dev.Size()
	switch {
	case err != nil:
		return 0, err
	case size <= 0:
		return 0, volume.Errorf(volume.KindInternal, "device %s reports a size of %d bytes; its content is unknown",
			dev.Path(), size.Bytes()).
			WithRemedy("check the connection of the volume to this node")
	default:
		return size, nil
	}
}

// awaitDeviceRead reads from a device within the time of ctx; see bounded.
func awaitDeviceRead[T any](ctx context.Context, s *System, dev Device, read func() (T, error)) (T, error) {
	message := "device " + dev.Path() + " did not answer in time"
	return awaitCall(ctx, s, "device "+dev.Number().String(), message, dev.Path(), read)
}

// awaitMountRead looks at the mounted filesystem of a device within the time of
// ctx; see bounded. The device itself may be read meanwhile.
func awaitMountRead[T any](
	ctx context.Context, s *System, dev Device, mountPoint string, look func() (T, error),
) (T, error) {
	message := "the filesystem at " + mountPoint + " does not answer"
	return awaitCall(ctx, s, "mount "+dev.Number().String(), message, dev.Path(), look)
}

// awaitCall looks at something within the time of ctx. A look that hangs goes on
// without its caller; until it ends no other look under the same key begins,
// so that a device that hangs costs one thread, however often it is tried.
// Looks must not be nested.
func awaitCall[T any](ctx context.Context, s *System, key, message, device string, look func() (T, error)) (T, error) {
	v, err := operation.AwaitExclusive(ctx, &s.calls, key, look)
	if err != nil && err == ctx.Err() { //nolint:errorlint // what look returns has its own message
		err = volume.Errorf(volume.KindOf(err), "%s: %w", message, err).
			WithRemedy("check the kernel log of this node and the connection of the device " + device)
	}
	return v, err
}

// unreadableError reports a device whose content is unknown. An ended context
// keeps its own kind.
func unreadableError(path string, err error) error {
	if isContextError(err) {
		return volume.Wrap(err, "read device "+path, "")
	}
	return volume.Errorf(volume.KindInternal, "device %s cannot be read, so its content is unknown: %w", path, err).
		WithRemedy("look at the kernel log of this node and check the connection of the volume")
}

// closeQuietly closes what was only read: a failure to close loses nothing.
func closeQuietly(c io.Closer) { _ = c.Close() }
