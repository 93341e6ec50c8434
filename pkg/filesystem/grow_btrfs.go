package filesystem

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// btrfsGrower grows btrfs on its one device, by BTRFS_IOC_RESIZE.
type btrfsGrower struct {
	*mountedFilesystem
	info btrfsInfo
	dev  btrfsDevice
}

func (b *btrfsGrower) readGeometry(context.Context) (geometry, error) {
	var err error
	if b.info, b.dev, err = b.readBtrfs(); err != nil {
		return geometry{}, err
	}
	return btrfsGeometry(b.dev.totalBytes, b.info.sectorSize), nil
}

func (b *btrfsGrower) goal(device volume.Size) goal {
	blocks := uint64(device) / uint64(b.info.sectorSize)
	return goal{blocks: blocks, full: blocks, minResult: blocks}
}

func (b *btrfsGrower) resize(blocks uint64) error {
	code, err := b.mount.btrfsResize(b.resizeArgument(blocks))
	if err == nil && code > 0 {
		return btrfsError(code)
	}
	return err
}

// resizeArgument names the device and the size in bytes. The argument "max" would shrink
// the filesystem to a device that has become smaller.
func (b *btrfsGrower) resizeArgument(blocks uint64) string {
	return fmt.Sprintf("%d:%d", b.dev.id, blocks*uint64(b.info.sectorSize))
}

// btrfsExclusiveRunning is BTRFS_ERROR_DEV_EXCL_RUN_IN_PROGRESS (linux/btrfs.h): another
// resize, balance or device operation is under way.
const btrfsExclusiveRunning = 8

// btrfsError is a positive result of BTRFS_IOC_RESIZE (enum btrfs_err_code).
type btrfsError int

func (code btrfsError) Error() string {
	if code == btrfsExclusiveRunning {
		return "another exclusive operation (resize, balance, device) is under way"
	}
	return fmt.Sprintf("btrfs error code %d", int(code))
}

func (b *btrfsGrower) isBusy(err error) bool {
	return errors.Is(err, btrfsError(btrfsExclusiveRunning)) || errors.Is(err, unix.EINPROGRESS)
}

func (b *btrfsGrower) explainError(_ context.Context, err error) error {
	switch {
	case errors.Is(err, unix.EACCES): // the mount is read-only
		err = fmt.Errorf("%w: %w", unix.EROFS, err)
	case errors.Is(err, unix.EFBIG):
		return volume.Errorf(volume.KindInternal, "the device %s is smaller than its size that was read before: %w",
			b.device.Path(), err).
			WithRemedy("compare its size on this node (blockdev --getsize64 " + b.device.Path() +
				") with that in the storage system")
	}
	return b.explainErrno(err, "BTRFS_IOC_RESIZE")
}

func (b *btrfsGrower) toolCommand(blocks uint64) []string {
	return []string{"btrfs", "filesystem", "resize", b.resizeArgument(blocks), b.mountPoint}
}
