package filesystem

import (
	"context"
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// xfsGrower grows XFS, by XFS_IOC_FSGROWFSDATA.
type xfsGrower struct {
	*mountedFilesystem
	geometry xfsGeometry
}

func (x *xfsGrower) readGeometry(context.Context) (geometry, error) {
	var err error
	if x.geometry, err = x.readXFS(); err != nil {
		return geometry{}, err
	}
	return geometry{fsType: TypeXFS, blockSize: volume.Size(x.geometry.blockSize), blocks: x.geometry.dataBlocks}, nil
}

// goal leaves out a tail that is too short for an allocation group, as the kernel does. It
// is never below the present size: a smaller request would make the kernel shrink XFS.
func (x *xfsGrower) goal(device volume.Size) goal {
	blocks := uint64(device) / uint64(x.geometry.blockSize)
	if tail := blocks % uint64(x.geometry.agBlocks); tail < minXFSGroupBlocks {
		blocks -= tail
	}
	blocks = max(blocks, x.geometry.dataBlocks)
	return goal{blocks: blocks, full: blocks, minResult: blocks}
}

// minXFSGroupBlocks is XFS_MIN_AG_BLOCKS (fs/xfs/libxfs/xfs_fs.h): the kernel makes no
// allocation group of fewer blocks, and leaves such a tail unused.
const minXFSGroupBlocks = 64

// resize passes the present share of inode space (imaxpct), which the request sets too.
func (x *xfsGrower) resize(blocks uint64) error {
	return x.mount.xfsGrow(blocks, x.geometry.imaxpct)
}

func (x *xfsGrower) isBusy(err error) bool { return errors.Is(err, unix.EAGAIN) }

func (x *xfsGrower) explainError(_ context.Context, err error) error {
	return x.explainErrno(err, "XFS_IOC_FSGROWFSDATA")
}

func (x *xfsGrower) toolCommand(blocks uint64) []string {
	return []string{"xfs_growfs", "-D", strconv.FormatUint(blocks, 10), x.mountPoint}
}
