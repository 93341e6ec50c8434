package filesystem

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// mountedFilesystem is a mounted filesystem and the device that it must be on. Both are
// open, and verified to belong together. The device is the caller's.
type mountedFilesystem struct {
	sys        *System
	mount      mountHandle
	device     Device
	mountPoint string
	entry      Mount // the line of the mount table
	magic      uint32
	isReadOnly bool // the mount, the filesystem or the device is read-only
}

// openMounted opens the mount point of a device's filesystem. It refuses a path that is no
// mount point, and the mount of another device. It checks open descriptors only, so that
// the checks stay true for what is done with them.
//
// Kinds: Precondition (not mounted, another device, or shut down; see isShutDown), Internal.
func (s *System) openMounted(dev Device, mountPoint string) (*mountedFilesystem, error) {
	m, err := s.kernel.openMount(mountPoint)
	if err != nil {
		return nil, openMountError(mountPoint, err)
	}
	f := &mountedFilesystem{sys: s, mount: m, device: dev, mountPoint: mountPoint}
	err = f.readMountEntry()
	if err == nil {
		err = f.checkDevice()
	}
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *mountedFilesystem) close() { closeQuietly(f.mount) }

// readMountEntry reads what is mounted: entry, magic and isReadOnly.
func (f *mountedFilesystem) readMountEntry() error {
	st, err := f.mount.stat()
	if err != nil {
		return openMountError(f.mountPoint, err)
	}
	mounts, err := f.sys.readMounts()
	if err != nil {
		return err
	}
	var found bool
	f.entry, found = findMount(mounts, st, "")
	found = found && st.isRoot
	if st.mountID == 0 { // kernels before 5.8 do not report the mount of a descriptor
		f.entry, found, err = f.sys.FindMount(f.mountPoint)
		found = found && err == nil && (f.entry.Device == st.device || f.entry.FSType == string(TypeBtrfs))
	}
	if !found {
		return notMountedError(f.mountPoint, err)
	}
	fs, err := f.mount.statfs()
	if err != nil {
		return openMountError(f.mountPoint, err)
	}
	f.magic = uint32(fs.Type)
	f.isReadOnly = f.entry.IsReadOnly() || fs.Flags&unix.ST_RDONLY != 0
	return nil
}

// checkDevice returns an error unless the filesystem is on the device.
func (f *mountedFilesystem) checkDevice() error {
	isReadOnly, err := f.device.IsReadOnly()
	if err != nil {
		return err
	}
	f.isReadOnly = f.isReadOnly || isReadOnly
	number := f.entry.Device
	if f.magic == unix.BTRFS_SUPER_MAGIC { // its entry has an anonymous number
		_, dev, err := f.readBtrfs()
		if err != nil {
			return err
		}
		if number, err = f.sys.kernel.deviceNumber(dev.path); err != nil {
			return volume.Errorf(volume.KindInternal, "cannot find the device %s of the btrfs at %s: %w",
				dev.path, f.mountPoint, err)
		}
	}
	if number != f.device.Number() {
		return foreignMountError(f.entry, f.mountPoint, number, f.device)
	}
	return nil
}

// openMountError is the error for a mount point that cannot be opened or read.
func openMountError(path string, err error) error {
	switch {
	case isShutDownErrno(err):
		return newShutDownError(path, err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return notMountedError(path, err)
	default:
		return volume.Errorf(volume.KindInternal, "cannot open the mount point %s: %w", path, err)
	}
}

// shutDownError marks the cause of an error as that of a filesystem that has shut down.
type shutDownError struct{ error }

func (err shutDownError) Unwrap() error { return err.error }

// isShutDown reports whether err comes from newShutDownError.
func isShutDown(err error) bool {
	var e shutDownError
	return errors.As(err, &e)
}

func newShutDownError(path string, err error) error {
	return volume.Errorf(volume.KindPrecondition,
		"the filesystem at %s has shut down after an error, or its device has failed: %w", path, shutDownError{err}).
		WithRemedy("check the kernel log of this node; " +
			"then restart the pods that use the volume, so that it is mounted again")
}

func notMountedError(path string, err error) error {
	e := volume.Errorf(volume.KindPrecondition, "no filesystem is mounted at %s", path)
	e.Cause = err
	return e.WithRemedy("restart the pods that use the volume on this node, so that it is mounted again")
}

func foreignMountError(m Mount, mountPoint string, mounted blockdev.DeviceNumber, dev Device) error {
	return volume.Errorf(volume.KindPrecondition,
		"the mount at %s is of %s (%s), not of the volume's device %s (%s): nothing was changed",
		mountPoint, m.Source, mounted, dev.Path(), dev.Number()).
		WithRemedy("unmount it on this node: umount " + mountPoint + "; the volume is then staged again")
}

// grower is what differs between the filesystems when one is measured or grown. The other
// methods work on what readGeometry has read, so it must be called first.
type grower interface {
	// readGeometry measures the filesystem.
	readGeometry(ctx context.Context) (geometry, error)
	// goal returns the size that growth can reach on a device of this size.
	goal(device volume.Size) goal
	// checkHealth returns an error for a filesystem whose geometry cannot be trusted.
	checkHealth() error
	// checkGrowable returns an error if the kernel cannot grow the filesystem in its present
	// state, or if the request would do damage.
	checkGrowable() error
	// resize requests a size in blocks from the kernel. The error is the errno.
	resize(blocks uint64) error
	// isBusy reports whether an error of resize says that another growth is under way.
	isBusy(err error) bool
	// explainError adds cause and remedy to an error of resize.
	explainError(ctx context.Context, err error) error
	// toolCommand returns the command that grows the filesystem in the same way.
	toolCommand(blocks uint64) []string
}

// goal is the size that growth can reach, in blocks.
type goal struct {
	// blocks is the size to request.
	blocks uint64
	// full is the size from which on nothing is left to grow: the kernel leaves out a short
	// tail.
	full uint64
	// minResult is the smallest size to expect after the growth. It is below full where it
	// depends on the kernel how short a tail is left out.
	minResult uint64
	// limit is set when the format cannot fill the device.
	limit *formatLimit
}

// formatLimit is the size at which a filesystem's format ends. The last block or cluster
// may be unusable.
type formatLimit struct {
	size   volume.Size
	reason string
}

// openGrower opens the mounted filesystem of a device, and the grower for its type. The
// caller closes the filesystem.
func (s *System) openGrower(dev Device, mountPoint string) (*mountedFilesystem, grower, error) {
	f, err := s.openMounted(dev, mountPoint)
	if err != nil {
		return nil, nil, err
	}
	switch f.magic {
	case unix.EXT4_SUPER_MAGIC: // also that of ext2 and ext3
		return f, &extGrower{mountedFilesystem: f}, nil
	case unix.XFS_SUPER_MAGIC:
		return f, &xfsGrower{mountedFilesystem: f}, nil
	case unix.BTRFS_SUPER_MAGIC:
		return f, &btrfsGrower{mountedFilesystem: f}, nil
	}
	defer f.close()
	return nil, nil, volume.Errorf(volume.KindPrecondition,
		"the filesystem at %s is of type %s, which this driver does not measure or grow", mountPoint, f.entry.FSType)
}
