package filesystem

import "github.com/growvol/growvol/pkg/volume"

// Usage is what statfs(2) says of the filesystem at a path. Available is what
// an unprivileged process may still use. Its total leaves out the
// filesystem's own metadata: it is for reports, never for judging growth.
// btrfs has no inode counts; they are zero.
type Usage struct {
	Total, Used, Available              volume.Size
	Inodes, InodesUsed, InodesAvailable int64
}

// ReadUsage counts bytes and inodes of a mounted filesystem, as FindMount has
// returned it: what is counted is that of this very mount, or nothing. Kind
// Precondition: the mount is gone, or another covers it, or its filesystem has
// shut down. A filesystem that is frozen or whose device is gone may keep the
// call waiting for ever.
func (s *System) ReadUsage(m Mount) (Usage, error) {
	handle, err := s.kernel.openMount(m.MountPoint)
	if err != nil {
		return Usage{}, openMountError(m.MountPoint, err)
	}
	defer closeQuietly(handle)
	at, err := handle.stat()
	if err != nil {
		return Usage{}, openMountError(m.MountPoint, err)
	}
	if at.mountID != m.ID && (at.mountID != 0 || at.device != m.Device && m.FSType != string(TypeBtrfs)) {
		return Usage{}, notMountedError(m.MountPoint, nil)
	}
	st, err := handle.statfs()
	if err != nil {
		return Usage{}, volume.Errorf(volume.KindInternal, "statfs %s: %w", m.MountPoint, err)
	}
	bytes := func(blocks uint64) volume.Size { return volume.Size(int64(blocks) * st.blockSize) }
	return Usage{
		Total: bytes(st.blocks), Used: bytes(st.blocks - st.free), Available: bytes(st.available),
		Inodes: int64(st.inodes), InodesUsed: int64(st.inodes - st.inodesFree), InodesAvailable: int64(st.inodesFree),
	}, nil
}
