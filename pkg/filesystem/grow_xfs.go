package filesystem

import (
	"context"
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// xfsMinAGBlocks is XFS_MIN_AG_BLOCKS (fs/xfs/libxfs/xfs_fs.h): the kernel
// makes no allocation group of fewer blocks and leaves such a tail unused.
const xfsMinAGBlocks = 64

// xfsGrower grows XFS.
type xfsGrower struct {
	*mountedFilesystem
	geometry xfsGeometry
}

func (x *xfsGrower) readGeometry(context.Context) (Geometry, error) {
	var err error
	if x.geometry, err = readXFSGeometry(x.mount, x.mountPoint); err != nil {
		return Geometry{}, err
	}
	return Geometry{Type: TypeXFS, BlockSize: volume.Size(x.geometry.blockSize), Blocks: x.geometry.dataBlocks}, nil
}

// goal leaves out a tail too short for an allocation group, as the kernel
// does. It is never below the present size on a device that holds the
// filesystem: a smaller number would make the kernel shrink it.
func (x *xfsGrower) goal(device volume.Size) goal {
	blocks := uint64(device) / uint64(x.geometry.blockSize)
	if tail := blocks % uint64(x.geometry.agBlocks); tail < xfsMinAGBlocks {
		blocks -= tail
	}
	blocks = max(blocks, x.geometry.dataBlocks)
	return goal{blocks: blocks, full: blocks, minResult: blocks}
}

func (x *xfsGrower) checkGrowable() error { return nil }

// resize keeps the share of inode space (imaxpct): the request would set it.
func (x *xfsGrower) resize(blocks uint64) error {
	return x.mount.xfsGrow(blocks, x.geometry.imaxpct)
}

func (x *xfsGrower) isBusy(err error) bool { return errors.Is(err, unix.EAGAIN) }

func (x *xfsGrower) explainError(_ context.Context, err error) error {
	switch {
	case isShutDownErrno(err), errors.Is(err, unix.ENOSPC):
		return x.growthFailedError(err)
	case errors.Is(err, unix.EROFS):
		return volume.Errorf(volume.KindPrecondition, "the filesystem at %s has become read-only: %w", x.mountPoint, err).
			WithRemedy("mount the volume writable: it grows at that moment")
	case errors.Is(err, unix.EPERM):
		return volume.Errorf(volume.KindPrecondition, "growing XFS needs CAP_SYS_ADMIN, which this process lacks: %w", err).
			WithRemedy("run the node plugin privileged")
	}
	return volume.Errorf(volume.KindInternal, "growing the filesystem at %s (XFS_IOC_FSGROWFSDATA): %w", x.mountPoint, err).
		WithRemedy("the kernel log of this node names the cause")
}

func (x *xfsGrower) toolCommand(blocks uint64) []string {
	return []string{"xfs_growfs", "-D", strconv.FormatUint(blocks, 10), x.mountPoint}
}
