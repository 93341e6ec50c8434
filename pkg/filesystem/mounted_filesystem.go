package filesystem

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// mountedFilesystem is a mounted filesystem and the device it must be on, both open and
// verified to belong together. The device is the caller's.
type mountedFilesystem struct {
	sys        *System
	mount      mountHandle
	device     Device
	mountPoint string
	devicePath string
	entry      Mount // the line of the mount table
	magic      uint32
	isReadOnly bool // the mount, the filesystem or the device is read-only
}

// grower is what differs between the filesystems. read must be called first;
// the others work on what it found.
type grower interface {
	// readGeometry measures the filesystem.
	readGeometry(ctx context.Context) (Geometry, error)
	// goal says what growth on a device of this size would reach.
	goal(device volume.Size) goal
	// checkHealth refuses a filesystem whose reading cannot be trusted.
	checkHealth() error
	// checkGrowable refuses a state in which the kernel cannot grow the filesystem,
	// or in which the request would do harm.
	checkGrowable() error
	// resize makes the request to the kernel.
	resize(blocks uint64) error
	// isBusy recognizes the answer of a kernel that is growing it already.
	isBusy(err error) bool
	// explainError turns what resize answered into cause and remedy.
	explainError(ctx context.Context, err error) error
	// toolCommand is the command that grows it the same way.
	toolCommand(blocks uint64) []string
}

// goal is the size growth can reach, in blocks.
type goal struct {
	blocks    uint64       // to ask for
	full      uint64       // from here on there is surely nothing to grow: the kernel leaves a short tail out
	minResult uint64       // to find afterwards; below full where it depends on the kernel how short is too short
	limit     *formatLimit // set when the format cannot fill the device
}

// formatLimit is the size at which a filesystem's format ends. Its last block
// or cluster may be out of use.
type formatLimit struct {
	size   volume.Size
	reason string
}

func (f *mountedFilesystem) close() {
	closeQuietly(f.mount)
}

// openMounted opens the mount point, and refuses one that is none or that is of
// another device. Only descriptors are looked at, so that nothing can change
// between the look and the use.
func (s *System) openMounted(dev Device, mountPoint string) (*mountedFilesystem, error) {
	m, err := s.kernel.openMount(mountPoint)
	if err != nil {
		return nil, openMountError(mountPoint, err)
	}
	t := &mountedFilesystem{sys: s, mount: m, device: dev, mountPoint: mountPoint, devicePath: dev.Path()}
	err = t.readMountEntry()
	if err == nil {
		err = t.checkDevice()
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func openMountError(path string, err error) error {
	switch {
	case isShutDownErrno(err):
		return newShutDownError(path, err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return notMountedError(path, err)
	default:
		return volume.Errorf(volume.KindInternal, "open the mount point %s: %w", path, err)
	}
}

func newShutDownError(path string, err error) error {
	return volume.Errorf(volume.KindPrecondition, "the filesystem at %s has shut down after an error, or its device fails: %w", path, shutDownError{err}).
		WithRemedy("restart the pods that use the volume so that it is mounted anew; the kernel log of this node names the error")
}

func notMountedError(path string, err error) error {
	e := volume.Errorf(volume.KindPrecondition, "no filesystem is mounted at %s", path)
	e.Cause = err
	return e.WithRemedy("the volume must be staged on this node first")
}

// readMountEntry finds out what is mounted.
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
	if st.mountID != 0 {
		i := slices.IndexFunc(mounts, func(m Mount) bool { return m.ID == st.mountID })
		if found = i >= 0 && st.root; found {
			f.entry = mounts[i]
		}
	} else {
		// The kernel does not tell the mount of a descriptor (before 5.8).
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
	f.magic = fs.magic
	f.isReadOnly = f.entry.IsReadOnly() || fs.flags&unix.ST_RDONLY != 0
	return nil
}

// checkDevice compares the mount with the device.
func (f *mountedFilesystem) checkDevice() error {
	number := f.device.Number()
	ro, err := f.device.IsReadOnly()
	if err != nil {
		return err
	}
	f.isReadOnly = f.isReadOnly || ro
	mounted := f.entry.Device
	if f.magic == btrfsMagic {
		_, dev, err := readBtrfsDevice(f.mount, f.mountPoint)
		if err != nil {
			return err
		}
		if mounted, err = f.sys.kernel.deviceNumber(dev.path); err != nil {
			return volume.Errorf(volume.KindInternal, "the btrfs at %s is on %s: %w", f.mountPoint, dev.path, err)
		}
	}
	if mounted != number {
		return foreignMountError(f.entry, f.mountPoint, mounted, f.device)
	}
	return nil
}

func foreignMountError(m Mount, mountPoint string, of blockdev.DeviceNumber, dev Device) error {
	return volume.Errorf(volume.KindPrecondition, "the mount at %s is of %s (%s), not of the volume's device %s (%s)",
		mountPoint, m.Source, of, dev.Path(), dev.Number()).
		WithRemedy("nothing was changed; unmount the path and let the volume be staged again")
}

// newGrower picks the grower for what is mounted.
func (f *mountedFilesystem) newGrower() (grower, error) {
	switch fsType, _ := typeOfMagic(f.magic); fsType {
	case TypeExt4:
		return &extGrower{mountedFilesystem: f}, nil
	case TypeXFS:
		return &xfsGrower{mountedFilesystem: f}, nil
	case TypeBtrfs:
		return &btrfsGrower{mountedFilesystem: f}, nil
	default:
		return nil, volume.Errorf(volume.KindPrecondition, "the filesystem at %s is %s, which this driver does not measure or grow", f.mountPoint, f.entry.FSType)
	}
}
