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

// Stats counts bytes and inodes of the filesystem that holds path, which must
// have been found to be a mount before (FindMount).
func (s *System) Stats(path string) (Usage, error) {
	st, err := s.kernel.statfs(path)
	if err != nil {
		return Usage{}, volume.Errorf(volume.Internal, "statfs %s: %w", path, err)
	}
	bytes := func(blocks uint64) volume.Size { return volume.Size(int64(blocks) * st.blockSize) }
	return Usage{
		Total: bytes(st.blocks), Used: bytes(st.blocks - st.free), Available: bytes(st.available),
		Inodes: int64(st.inodes), InodesUsed: int64(st.inodes - st.inodesFree), InodesAvailable: int64(st.inodesFree),
	}, nil
}
