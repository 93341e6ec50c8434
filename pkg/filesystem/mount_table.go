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

// Mount is one line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type Mount struct {
	ID, Parent   int
	MountPoint   string                // without symbolic links
	Root         string                // what of the filesystem is mounted; "/" is all of it
	Device       blockdev.DeviceNumber // anonymous (major 0) for btrfs
	FSType       string                // as the kernel names it
	Source       string                // as given to mount
	Options      []string              // of this mount
	SuperOptions []string              // of the filesystem, shared by all its mounts
	IsShared     bool                  // mounts made below it appear in its peers, too (mount_namespaces(7))
	// DeviceNode is the number of the block device whose node is mounted, which is how
	// raw volumes are published; zero: it is no such node. Only FindMount and
	// MountsOf fill it in, from the inode: a directory or a file of the same
	// tmpfs is no node, whatever the mount table shows of it.
	DeviceNode blockdev.DeviceNumber
}

// IsDeviceNode reports whether m shows the node of a block device, not a filesystem.
func (m Mount) IsDeviceNode() bool { return m.DeviceNode != blockdev.DeviceNumber{} }

// IsStaleDeviceNode reports whether m shows the node of a block device that has been
// removed since: its disk was pulled out under the pod. The node still has its
// number, which the kernel may have given to another disk by now; what it led
// to, it does not lead to any more. The kernel marks the root of such a mount
// (dentry_path in fs/d_path.c), and that of a removed directory just so.
func (m Mount) IsStaleDeviceNode() bool {
	return m.IsDeviceNode() && strings.HasSuffix(m.Root, deletedRoot)
}

const deletedRoot = "//deleted"

// isSame reports whether o is the same mount, read at another time. The kernel
// gives the id of a mount that is gone to the next one, so it is not enough.
func (m Mount) isSame(o Mount) bool {
	return m.ID == o.ID && m.MountPoint == o.MountPoint && m.Device == o.Device
}

// IsReadOnly tells whether nothing can be written through this mount: the mount
// or the whole filesystem is read-only. An ext filesystem that an error has
// made read-only need not show it here.
func (m Mount) IsReadOnly() bool {
	return slices.Contains(m.Options, "ro") || m.IsFilesystemReadOnly()
}

// IsFilesystemReadOnly tells whether the whole filesystem is mounted read-only.
func (m Mount) IsFilesystemReadOnly() bool { return slices.Contains(m.SuperOptions, "ro") }

// FindMount returns the topmost mount whose mount point is exactly path, after
// symbolic links. A directory (or file) on which nothing is mounted, and a
// path that does not exist, are no mounts: never the filesystem that contains
// the path is returned. A mount that lies hidden under a later mount on a
// parent directory is not found, as it is not reachable.
//
// It also finds the mount of a filesystem that has shut down and answers
// every access with EIO.
func (s *System) FindMount(path string) (m Mount, mounted bool, err error) {
	path, st, err := s.resolveMountPoint(path)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return Mount{}, false, nil
	case err != nil && !isShutDownErrno(err):
		return Mount{}, false, volume.Errorf(volume.KindInternal, "look at %s: %w", path, err)
	}
	if err == nil && st.mountID != 0 && !st.root {
		return Mount{}, false, nil
	}
	mounts, err := s.readMounts()
	if err != nil {
		return Mount{}, false, err
	}
	if st.mountID != 0 {
		i := slices.IndexFunc(mounts, func(m Mount) bool { return m.ID == st.mountID })
		if i < 0 {
			// The mount went between the two looks.
			return Mount{}, false, nil
		}
		m, mounted = mounts[i], true
	} else {
		m, mounted = findTopmost(mounts, path)
	}
	if mounted && m.canBeDeviceNode() {
		m.DeviceNode = st.node
	}
	return m, mounted, nil
}

// isShutDownErrno tells whether err is what a filesystem answers whose device is gone.
func isShutDownErrno(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) ||
		errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ESTALE)
}

// resolveMountPoint resolves path and looks at it. Of a dead filesystem only the parent
// directory can be resolved.
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

// findTopmost picks, of the mounts stacked on one path, the one no other of them
// is mounted on.
func findTopmost(mounts []Mount, path string) (Mount, bool) {
	var stack []Mount
	for _, m := range mounts {
		if m.MountPoint == path {
			stack = append(stack, m)
		}
	}
	for _, m := range stack {
		covered := slices.ContainsFunc(stack, func(o Mount) bool { return o.Parent == m.ID && o.ID != m.ID })
		if !covered {
			return m, true
		}
	}
	return Mount{}, false
}

// MountsOf returns every mount of the filesystem on a block device, and every
// bind mount of a node of the device (see Mount.DeviceNode), which is how raw block
// volumes are published. Mounts that are hidden below others are among them.
// Kinds: Internal; Deadline or Canceled when ctx ended first.
func (s *System) MountsOf(ctx context.Context, device blockdev.DeviceNumber) ([]Mount, error) {
	number := device.String()
	return awaitCall(ctx, s, "mounts of "+number, "the mounts of device "+number+" were not found in time", number, func() ([]Mount, error) {
		return s.mountsOf(device)
	})
}

func (s *System) mountsOf(number blockdev.DeviceNumber) ([]Mount, error) {
	mounts, err := s.readMounts()
	if err != nil {
		return nil, err
	}
	var of []Mount
	for _, m := range mounts {
		if m.canBeDeviceNode() {
			if m.DeviceNode, err = s.deviceNodeOf(m, mounts); err != nil {
				return nil, volume.Errorf(volume.KindInternal, "look at what is mounted at %s: %w", m.MountPoint, err)
			}
		}
		holds, err := s.isOnDevice(m, number)
		if err != nil {
			return nil, volume.Errorf(volume.KindInternal, "look at the device %s of the mount at %s: %w", m.Source, m.MountPoint, err)
		}
		if holds {
			of = append(of, m)
		}
	}
	return of, nil
}

// canBeDeviceNode reports whether m can be a device node at all. Device nodes are in
// a devtmpfs, or in the tmpfs that a container has as its /dev.
func (m Mount) canBeDeviceNode() bool {
	return (m.FSType == "devtmpfs" || m.FSType == "tmpfs") && m.Root != "/"
}

// deviceNodeOf returns the number of the block device whose node m shows, or zero.
// A mount that is hidden below others is read where the whole filesystem is
// mounted. Where that is nowhere, the node cannot be read from here and counts
// as none, although a process in another mount namespace (a pod that got the
// node as a raw volume) may still use it.
func (s *System) deviceNodeOf(m Mount, mounts []Mount) (blockdev.DeviceNumber, error) {
	st, err := s.kernel.statMount(m.MountPoint)
	switch {
	case err == nil && (st.mountID == m.ID || st.mountID == 0):
		return st.node, nil
	case err != nil && !isUnreachable(err):
		return blockdev.DeviceNumber{}, err
	}
	for _, whole := range mounts {
		if whole.Device != m.Device || whole.Root != "/" || strings.HasSuffix(m.Root, deletedRoot) {
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

// isUnreachable reports whether err says that a path leads to nothing, or ends
// at a filesystem that is dead: a mount below it is hidden.
func isUnreachable(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || isShutDownErrno(err)
}

// isOnDevice reports whether m is a mount of the device's filesystem or of a node
// of the device.
func (s *System) isOnDevice(m Mount, device blockdev.DeviceNumber) (bool, error) {
	if m.Device == device || m.DeviceNode == device {
		return true, nil
	}
	if m.FSType != string(TypeBtrfs) {
		return false, nil
	}
	// The device number of btrfs is anonymous; its source tells the device.
	n, err := s.kernel.deviceNumber(m.Source)
	if isUnreachable(err) || errors.Is(err, unix.ENOTBLK) {
		return false, nil
	}
	return n == device, err
}

func (s *System) readMounts() ([]Mount, error) {
	mounts, err := s.kernel.mounts()
	if err != nil {
		return nil, volume.Errorf(volume.KindInternal, "read the mount table of this process: %w", err)
	}
	return mounts, nil
}
