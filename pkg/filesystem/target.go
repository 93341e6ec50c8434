package filesystem

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// target is a mounted filesystem and the device it must be on, both open and
// verified to belong together. The device is the caller's.
type target struct {
	sys        *System
	mount      mountHandle
	device     Device
	mountPoint string
	devicePath string
	entry      Mount // the line of the mount table
	magic      uint32
	readonly   bool // the mount, the filesystem or the device is read-only
}

// grower is what differs between the filesystems. read must be called first;
// the others work on what it found.
type grower interface {
	// read measures the filesystem.
	read(ctx context.Context) (Geometry, error)
	// goal says what growth on a device of this size would reach.
	goal(device volume.Size) goal
	// healthy refuses a filesystem whose reading cannot be trusted.
	healthy() error
	// guard refuses a state in which the kernel cannot grow the filesystem,
	// or in which the request would do harm.
	guard() error
	// resize makes the request to the kernel.
	resize(blocks uint64) error
	// busy recognizes the answer of a kernel that is growing it already.
	busy(err error) bool
	// explain turns what resize answered into cause and remedy.
	explain(ctx context.Context, err error) error
	// tool is the command that grows it the same way.
	tool(blocks uint64) []string
}

// goal is the size growth can reach, in blocks.
type goal struct {
	blocks uint64       // to ask for
	full   uint64       // from here on there is surely nothing to grow: the kernel leaves a short tail out
	least  uint64       // to find afterwards; below full where it depends on the kernel how short is too short
	limit  *formatLimit // set when the format cannot fill the device
}

// formatLimit is the size at which a filesystem's format ends. Its last block
// or cluster may be out of use.
type formatLimit struct {
	size volume.Size
	why  string
}

func (t *target) close() {
	closeQuietly(t.mount)
}

// openTarget opens the mount point, and refuses one that is none or that is of
// another device. Only descriptors are looked at, so that nothing can change
// between the look and the use.
func (s *System) openTarget(dev Device, mountPoint string) (*target, error) {
	m, err := s.kernel.openMount(mountPoint)
	if err != nil {
		return nil, openMountError(mountPoint, err)
	}
	t := &target{sys: s, mount: m, device: dev, mountPoint: mountPoint, devicePath: dev.Path()}
	err = t.identify()
	if err == nil {
		err = t.belongsTogether()
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func openMountError(path string, err error) error {
	switch {
	case dead(err):
		return shutDown(path, err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return notMounted(path, err)
	default:
		return volume.Errorf(volume.KindInternal, "open the mount point %s: %w", path, err)
	}
}

func shutDown(path string, err error) error {
	return volume.Errorf(volume.KindPrecondition, "the filesystem at %s has shut down after an error, or its device fails: %w", path, deadError{err}).
		WithRemedy("restart the pods that use the volume so that it is mounted anew; the kernel log of this node names the error")
}

func notMounted(path string, err error) error {
	e := volume.Errorf(volume.KindPrecondition, "no filesystem is mounted at %s", path)
	e.Cause = err
	return e.WithRemedy("the volume must be staged on this node first")
}

// identify finds out what is mounted.
func (t *target) identify() error {
	st, err := t.mount.stat()
	if err != nil {
		return openMountError(t.mountPoint, err)
	}
	mounts, err := t.sys.readMounts()
	if err != nil {
		return err
	}
	var found bool
	if st.mountID != 0 {
		i := slices.IndexFunc(mounts, func(m Mount) bool { return m.ID == st.mountID })
		if found = i >= 0 && st.root; found {
			t.entry = mounts[i]
		}
	} else {
		// The kernel does not tell the mount of a descriptor (before 5.8).
		t.entry, found, err = t.sys.FindMount(t.mountPoint)
		found = found && err == nil && (t.entry.Device == st.device || t.entry.FSType == string(TypeBtrfs))
	}
	if !found {
		return notMounted(t.mountPoint, err)
	}
	fs, err := t.mount.statfs()
	if err != nil {
		return openMountError(t.mountPoint, err)
	}
	t.magic = fs.magic
	t.readonly = t.entry.IsReadOnly() || fs.flags&unix.ST_RDONLY != 0
	return nil
}

// belongsTogether compares the mount with the device.
func (t *target) belongsTogether() error {
	number := t.device.Number()
	ro, err := t.device.IsReadOnly()
	if err != nil {
		return err
	}
	t.readonly = t.readonly || ro
	mounted := t.entry.Device
	if t.magic == btrfsMagic {
		_, dev, err := readBtrfs(t.mount, t.mountPoint)
		if err != nil {
			return err
		}
		if mounted, err = t.sys.kernel.deviceNumber(dev.path); err != nil {
			return volume.Errorf(volume.KindInternal, "the btrfs at %s is on %s: %w", t.mountPoint, dev.path, err)
		}
	}
	if mounted != number {
		return foreignMount(t.entry, t.mountPoint, mounted, t.device)
	}
	return nil
}

func foreignMount(m Mount, mountPoint string, of blockdev.DeviceNumber, dev Device) error {
	return volume.Errorf(volume.KindPrecondition, "the mount at %s is of %s (%s), not of the volume's device %s (%s)",
		mountPoint, m.Source, of, dev.Path(), dev.Number()).
		WithRemedy("nothing was changed; unmount the path and let the volume be staged again")
}

// family picks the grower for what is mounted.
func (t *target) family() (grower, error) {
	switch f, _ := family(t.magic); f {
	case TypeExt4:
		return &extGrower{target: t}, nil
	case TypeXFS:
		return &xfsGrower{target: t}, nil
	case TypeBtrfs:
		return &btrfsGrower{target: t}, nil
	default:
		return nil, volume.Errorf(volume.KindPrecondition, "the filesystem at %s is %s, which this driver does not measure or grow", t.mountPoint, t.entry.FSType)
	}
}
