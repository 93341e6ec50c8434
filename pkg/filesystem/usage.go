package filesystem

import (
	"cmp"

	"github.com/growvol/growvol/pkg/volume"
)

// Usage is what statfs(2) reports for a filesystem. Available is what an unprivileged
// process may still use. Total leaves out the filesystem's own metadata: use it for
// reports, never to decide about growth. btrfs has no inode counts; they are zero.
type Usage struct {
	Total, Used, Available              volume.Size
	Inodes, InodesUsed, InodesAvailable int64
}

// ReadUsage counts bytes and inodes of a mounted filesystem. m comes from FindMount; no
// other mount at the same path is counted in its place. The call can hang for ever if the
// filesystem is frozen or its device is gone.
//
// Kinds: Precondition (the mount is gone, another mount covers it, or its filesystem has
// shut down), Internal.
func (s *System) ReadUsage(m Mount) (Usage, error) {
	handle, err := s.kernel.openMount(m.MountPoint)
	if err != nil {
		return Usage{}, openMountError(m.MountPoint, err)
	}
	defer closeQuietly(handle)
	st, err := handle.stat()
	if err != nil {
		return Usage{}, openMountError(m.MountPoint, err)
	}
	if st.mountID != m.ID && (st.mountID != 0 || st.device != m.Device && m.FSType != string(TypeBtrfs)) {
		return Usage{}, notMountedError(m.MountPoint, nil)
	}
	fs, err := handle.statfs()
	if err != nil {
		return Usage{}, volume.Errorf(volume.KindInternal, "cannot read the usage of %s (statfs): %w", m.MountPoint, err)
	}
	unit := volume.Size(cmp.Or(fs.Frsize, fs.Bsize))
	return Usage{
		Total:     volume.Size(fs.Blocks) * unit,
		Used:      volume.Size(fs.Blocks-fs.Bfree) * unit,
		Available: volume.Size(fs.Bavail) * unit,
		Inodes:    int64(fs.Files), InodesUsed: int64(fs.Files - fs.Ffree), InodesAvailable: int64(fs.Ffree),
	}, nil
}
