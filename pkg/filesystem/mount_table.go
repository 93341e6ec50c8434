package filesystem

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// Mount is one line of the mount table, /proc/self/mountinfo (proc_pid_mountinfo(5)).
type Mount struct {
	ID, Parent   int
	MountPoint   string                // without symbolic links
	Root         string                // the part of the filesystem that is mounted; "/" is all of it
	Device       blockdev.DeviceNumber // anonymous (major 0) for btrfs
	FSType       string                // the kernel's name
	Source       string                // as given to mount
	Options      []string              // of this mount
	SuperOptions []string              // of the filesystem, shared by all its mounts
	IsShared     bool                  // mounts made below it also appear in its peers (mount_namespaces(7))
	// DeviceNode is the number of the block device whose node is mounted, which is how raw
	// volumes are published; zero if no node is mounted. Only FindMount and MountsOf set it.
	// They read it from the inode, because a line of the mount table does not distinguish a
	// device node from a directory or a file of the same tmpfs.
	DeviceNode blockdev.DeviceNumber
}

// IsDeviceNode reports whether m shows the node of a block device, not a filesystem.
func (m Mount) IsDeviceNode() bool { return m.DeviceNode != blockdev.DeviceNumber{} }

// IsStaleDeviceNode reports whether m shows a device node that was removed from its
// filesystem after the mount, as happens when the device is unplugged while a pod uses it.
// The node keeps its number, but the kernel can since have given the number to another
// device, so the number no longer identifies the device that was mounted. The kernel marks
// the root of a mount whose file was removed (dentry_path in fs/d_path.c).
func (m Mount) IsStaleDeviceNode() bool {
	return m.IsDeviceNode() && strings.HasSuffix(m.Root, deletedSuffix)
}

const deletedSuffix = "//deleted"

// isSame reports whether o is the same mount, read at another time. The kernel gives the id
// of a removed mount to the next one, so equal ids alone prove nothing.
func (m Mount) isSame(o Mount) bool {
	return m.ID == o.ID && m.MountPoint == o.MountPoint && m.Device == o.Device
}

// isCoveredBy reports whether o is mounted on top of m.
func (m Mount) isCoveredBy(o Mount) bool {
	return o.Parent == m.ID && o.ID != m.ID && o.MountPoint == m.MountPoint
}

// IsReadOnly reports whether nothing can be written through this mount: the mount or the
// whole filesystem is read-only. An ext filesystem that an error has made read-only may
// still be shown as writable.
func (m Mount) IsReadOnly() bool {
	return slices.Contains(m.Options, "ro") || m.IsFilesystemReadOnly()
}

// IsFilesystemReadOnly reports whether the whole filesystem is read-only.
func (m Mount) IsFilesystemReadOnly() bool { return slices.Contains(m.SuperOptions, "ro") }

// FindMount returns the topmost mount whose mount point is exactly path, after symbolic
// links. It reports false for a path on which nothing is mounted, and for a path that does
// not exist; it never returns the mount that contains the path. It does not find a mount
// that a later mount on a directory above hides, which no process can reach.
//
// It also finds the mount of a filesystem that has shut down and answers every access with
// EIO. The error is of kind Internal.
func (s *System) FindMount(path string) (m Mount, mounted bool, err error) {
	path, st, err := s.resolveMountPoint(path)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return Mount{}, false, nil
	case err != nil && !isShutDownErrno(err):
		return Mount{}, false, volume.Errorf(volume.KindInternal, "cannot check what is mounted at %s: %w", path, err)
	}
	if err == nil && st.mountID != 0 && !st.isRoot {
		return Mount{}, false, nil
	}
	mounts, err := s.readMounts()
	if err != nil {
		return Mount{}, false, err
	}
	m, mounted = findMount(mounts, st, path) // it may have been unmounted in between
	if mounted && m.canBeDeviceNode() {
		m.DeviceNode = st.node
	}
	return m, mounted, nil
}

// resolveMountPoint resolves the symbolic links of path, and calls statMount for it. Of a
// filesystem that has shut down only the parent directory can be resolved.
func (s *System) resolveMountPoint(path string) (string, mountStat, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path, mountStat{}, err
	}
	resolved, err := filepath.EvalSymlinks(abs)
	if err == nil {
		st, err := s.kernel.statMount(resolved)
		return resolved, st, err
	}
	if !isShutDownErrno(err) {
		return abs, mountStat{}, err
	}
	parent, parentErr := filepath.EvalSymlinks(filepath.Dir(abs))
	if parentErr != nil {
		return abs, mountStat{}, parentErr
	}
	return filepath.Join(parent, filepath.Base(abs)), mountStat{}, err
}

// findMount returns the mount whose id is in st. Where st has no mount id, because the kernel
// is older than 5.8 or the filesystem has shut down, findMount returns the topmost mount at
// path: the one that no other mount at path covers.
func findMount(mounts []Mount, st mountStat, path string) (Mount, bool) {
	i := slices.IndexFunc(mounts, func(m Mount) bool {
		if st.mountID != 0 {
			return m.ID == st.mountID
		}
		return m.MountPoint == path && !slices.ContainsFunc(mounts, m.isCoveredBy)
	})
	if i < 0 {
		return Mount{}, false
	}
	return mounts[i], true
}

// MountsOf returns every mount of the filesystem on a block device, and every bind mount of
// a node of the device (see Mount.DeviceNode), which is how raw volumes are published. It
// also returns mounts that are hidden below others. Kinds: Internal; Deadline or Canceled
// when ctx ended first.
func (s *System) MountsOf(ctx context.Context, device blockdev.DeviceNumber) ([]Mount, error) {
	number := device.String()
	message := "the search for the mounts of device " + number + " did not end in time"
	return awaitCall(ctx, s, "mounts of "+number, message, number, func() ([]Mount, error) { return s.mountsOf(device) })
}

func (s *System) mountsOf(number blockdev.DeviceNumber) ([]Mount, error) {
	mounts, err := s.readMounts()
	if err != nil {
		return nil, err
	}
	var found []Mount
	for _, m := range mounts {
		if m.canBeDeviceNode() {
			if m.DeviceNode, err = s.deviceNodeOf(m, mounts); err != nil {
				return nil, volume.Errorf(volume.KindInternal, "cannot check what is mounted at %s: %w", m.MountPoint, err)
			}
		}
		isOnDevice, err := s.isOnDevice(m, number)
		if err != nil {
			return nil, volume.Errorf(volume.KindInternal, "cannot find the device %s of the mount at %s: %w",
				m.Source, m.MountPoint, err)
		}
		if isOnDevice {
			found = append(found, m)
		}
	}
	return found, nil
}

// canBeDeviceNode reports whether m can show a device node. Device nodes are in a devtmpfs,
// or in the tmpfs that is the /dev of a container.
func (m Mount) canBeDeviceNode() bool {
	return (m.FSType == "devtmpfs" || m.FSType == "tmpfs") && m.Root != "/"
}

// deviceNodeOf returns the number of the block device whose node m shows, or zero. A node
// that is hidden below other mounts is read where the whole filesystem is mounted. If there
// is no such mount, the node cannot be read here and deviceNodeOf returns zero, although a
// process in another mount namespace (a pod with a raw volume) might still use the node.
//
// Kernels before 5.8 do not report which mount a path leads to. With them deviceNodeOf returns
// the node to which the mount point leads, and cannot find a node that is hidden.
func (s *System) deviceNodeOf(m Mount, mounts []Mount) (blockdev.DeviceNumber, error) {
	st, err := s.kernel.statMount(m.MountPoint)
	switch {
	case err == nil && (st.mountID == m.ID || st.mountID == 0):
		return st.node, nil
	case err != nil && !isUnreachable(err):
		return blockdev.DeviceNumber{}, err
	}
	for _, whole := range mounts {
		if whole.Device != m.Device || whole.Root != "/" || strings.HasSuffix(m.Root, deletedSuffix) {
			continue
		}
		st, err := s.kernel.statMount(filepath.Join(whole.MountPoint, m.Root))
		switch {
		case err == nil && st.mountID == whole.ID:
			return st.node, nil
		case err != nil && !isUnreachable(err):
			return blockdev.DeviceNumber{}, err
		}
	}
	return blockdev.DeviceNumber{}, nil
}

// isUnreachable reports whether err means that a path leads nowhere: it does not exist, its
// device is gone, or a filesystem on the way has shut down.
func isUnreachable(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || isShutDownErrno(err)
}

// isOnDevice reports whether m is a mount of the device's filesystem or of a node of the
// device.
func (s *System) isOnDevice(m Mount, device blockdev.DeviceNumber) (bool, error) {
	if m.Device == device || m.DeviceNode == device {
		return true, nil
	}
	if m.FSType != string(TypeBtrfs) {
		return false, nil
	}
	// The device number of btrfs is anonymous; its source is the path of the device.
	number, err := s.kernel.deviceNumber(m.Source)
	if isUnreachable(err) || errors.Is(err, unix.ENOTBLK) {
		return false, nil
	}
	return number == device, err
}

func (s *System) readMounts() ([]Mount, error) {
	mounts, err := s.kernel.mounts()
	if err != nil {
		return nil, volume.Errorf(volume.KindInternal, "cannot read the mount table of this process: %w", err)
	}
	return mounts, nil
}
