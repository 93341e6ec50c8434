package filesystem

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// CheckHealth returns an error of kind Precondition if the filesystem of a device, mounted
// at mountPoint, has failed: XFS that has shut down answers with EIO; ext has errors
// recorded, has shut down or was made read-only; btrfs was made read-only. It writes
// nothing and runs no program. It misses a failure of the storage that the filesystem has
// not noticed yet, because nothing was written since.
//
// Further kinds: Precondition when something else is mounted there; Internal when the
// device cannot be read; Deadline and Canceled when the filesystem did not answer before
// ctx ended. The read then continues until the kernel ends it, so wait before the next call.
func (s *System) CheckHealth(ctx context.Context, dev Device, mountPoint string) error {
	_, err := awaitMountRead(ctx, s, dev, mountPoint, func() (struct{}, error) {
		f, g, err := s.openGrower(dev, mountPoint)
		if err != nil {
			return struct{}{}, err
		}
		defer f.close()
		if _, err := g.readGeometry(ctx); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, g.checkHealth()
	})
	return err
}

// checkHealth returns an error if the filesystem has stopped writing after an error: its
// state in memory, its size included, may differ from that on the device.
func (f *mountedFilesystem) checkHealth() error {
	switch {
	case f.isListedAsShutDown():
		return newShutDownError(f.mountPoint, errors.New("the mount table lists it as shut down"))
	case f.becameReadOnly():
		return volume.Errorf(volume.KindPrecondition,
			"the %s at %s was mounted writable and has become read-only, as after an error: its size cannot be trusted",
			f.entry.FSType, f.mountPoint).
			WithRemedy("stop the pods that use the volume, check the kernel log of this node, " +
				"check that the storage below has free space, " +
				Type(f.entry.FSType).repairRemedy(f.device.Path()) + "; then start the pods again")
	}
	return nil
}

// isListedAsShutDown reports whether the mount table lists the filesystem as shut down, as newer
// kernels do.
func (f *mountedFilesystem) isListedAsShutDown() bool {
	return slices.Contains(f.entry.SuperOptions, "shutdown")
}

// becameReadOnly reports whether an error has made the filesystem read-only. Mounting a
// filesystem read-only makes the mount read-only as well, so a writable mount of a
// read-only filesystem shows that the filesystem changed afterwards. Newer kernels leave
// ext "rw" and add "emergency_ro".
func (f *mountedFilesystem) becameReadOnly() bool {
	return slices.Contains(f.entry.SuperOptions, "emergency_ro") ||
		f.entry.IsFilesystemReadOnly() && !slices.Contains(f.entry.Options, "ro")
}

// isShutDownErrno reports whether a filesystem answers with err when it has shut down or
// its device is gone.
func isShutDownErrno(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) ||
		errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ESTALE)
}
