package filesystem

import (
	"errors"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// Mount is one line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type Mount struct {
	ID, Parent   int
	Mountpoint   string       // without symbolic links
	Root         string       // what of the filesystem is mounted; "/" is all of it
	Device       DeviceNumber // anonymous (major 0) for btrfs
	FSType       string       // as the kernel names it
	Source       string       // as given to mount
	Options      []string     // of this mount
	SuperOptions []string     // of the filesystem, shared by all its mounts
	Shared       bool         // mounts made below it appear in its peers, too (mount_namespaces(7))
}

// ReadOnly tells whether nothing can be written through this mount: the mount
// or the whole filesystem is read-only. An ext filesystem that an error has
// made read-only need not show it here.
func (m Mount) ReadOnly() bool {
	return slices.Contains(m.Options, "ro") || m.SuperReadOnly()
}

// SuperReadOnly tells whether the whole filesystem is mounted read-only.
func (m Mount) SuperReadOnly() bool { return slices.Contains(m.SuperOptions, "ro") }

// FindMount returns the topmost mount whose mount point is exactly path, after
// symbolic links. A directory (or file) on which nothing is mounted, and a
// path that does not exist, are no mounts: never the filesystem that contains
// the path is returned. A mount that lies hidden under a later mount on a
// parent directory is not found, as it is not reachable.
//
// It also finds the mount of a filesystem that has shut down and answers
// every access with EIO.
func (s *System) FindMount(path string) (m Mount, mounted bool, err error) {
	path, st, err := s.locate(path)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return Mount{}, false, nil
	case err != nil && !dead(err):
		return Mount{}, false, volume.Errorf(volume.Internal, "look at %s: %w", path, err)
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
		return mounts[i], true, nil
	}
	m, mounted = topmost(mounts, path)
	return m, mounted, nil
}

// dead tells whether err is what a filesystem answers whose device is gone.
func dead(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) ||
		errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ESTALE)
}

// locate resolves path and looks at it. Of a dead filesystem only the parent
// directory can be resolved.
func (s *System) locate(path string) (string, mountStat, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path, mountStat{}, err
	}
	resolved, err := filepath.EvalSymlinks(abs)
	if err == nil {
		st, err := s.kernel.statMount(resolved)
		return resolved, st, err
	}
	if !dead(err) {
		return abs, mountStat{}, err
	}
	parent, parentErr := filepath.EvalSymlinks(filepath.Dir(abs))
	if parentErr != nil {
		return abs, mountStat{}, parentErr
	}
	return filepath.Join(parent, filepath.Base(abs)), mountStat{}, err
}

// topmost picks, of the mounts stacked on one path, the one no other of them
// is mounted on.
func topmost(mounts []Mount, path string) (Mount, bool) {
	var stack []Mount
	for _, m := range mounts {
		if m.Mountpoint == path {
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
// bind mount of the device node itself (FSType devtmpfs or tmpfs, Root the
// node), which is how raw block volumes are published.
func (s *System) MountsOf(device string) ([]Mount, error) {
	number, err := s.kernel.deviceNumber(device)
	if err != nil {
		return nil, volume.Errorf(volume.Precondition, "device %s: %w", device, err)
	}
	mounts, err := s.readMounts()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(mounts, func(m Mount) bool { return !s.holds(m, number) }), nil
}

// holds tells whether m is a mount of the device's filesystem or of its node.
func (s *System) holds(m Mount, device DeviceNumber) bool {
	if m.Device == device {
		return true
	}
	var probe string
	switch {
	case m.FSType == string(Btrfs):
		probe = m.Source // the device number of btrfs is anonymous
	case (m.FSType == "devtmpfs" || m.FSType == "tmpfs") && m.Root != "/":
		probe = m.Mountpoint
	default:
		return false
	}
	n, err := s.kernel.deviceNumber(probe)
	return err == nil && n == device
}

func (s *System) readMounts() ([]Mount, error) {
	mounts, err := s.kernel.mounts()
	if err != nil {
		return nil, volume.Errorf(volume.Internal, "read the mount table of this process: %w", err)
	}
	return mounts, nil
}
