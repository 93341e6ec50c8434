package filesystem

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// btrfsExclusiveRunning is BTRFS_ERROR_DEV_EXCL_RUN_IN_PROGRESS
// (linux/btrfs.h): a resize, balance or device operation is under way.
const btrfsExclusiveRunning = 8

// btrfsError is a positive answer of BTRFS_IOC_RESIZE.
type btrfsError int

func (code btrfsError) Error() string {
	if code == btrfsExclusiveRunning {
		return "another exclusive operation (resize, balance, device) is under way"
	}
	return "btrfs error code " + strconv.Itoa(int(code))
}

// btrfsGrower grows btrfs on its one device.
type btrfsGrower struct {
	*mountedFilesystem
	info btrfsInfo
	dev  btrfsDevice
}

func (b *btrfsGrower) readGeometry(context.Context) (Geometry, error) {
	var err error
	if b.info, b.dev, err = readBtrfsDevice(b.mount, b.mountPoint); err != nil {
		return Geometry{}, err
	}
	return btrfsGeometry(b.dev.totalBytes, b.info.sectorSize), nil
}

func (b *btrfsGrower) goal(device volume.Size) goal {
	blocks := uint64(device) / uint64(b.info.sectorSize)
	return goal{blocks: blocks, full: blocks, minResult: blocks}
}

func (b *btrfsGrower) checkGrowable() error { return nil }

// resize names the size in bytes: "max" would shrink the filesystem to a
// device that has become smaller.
func (b *btrfsGrower) resize(blocks uint64) error {
	code, err := b.mount.btrfsResize(b.spec(blocks))
	if err == nil && code > 0 {
		return btrfsError(code)
	}
	return err
}

func (b *btrfsGrower) spec(blocks uint64) string {
	return fmt.Sprintf("%d:%d", b.dev.id, blocks*uint64(b.info.sectorSize))
}

func (b *btrfsGrower) isBusy(err error) bool {
	var code btrfsError
	return errors.As(err, &code) && code == btrfsExclusiveRunning || errors.Is(err, unix.EINPROGRESS)
}

func (b *btrfsGrower) explainError(_ context.Context, err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), isShutDownErrno(err):
		return b.growthFailedError(err)
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES):
		return volume.Errorf(volume.KindPrecondition, "the filesystem at %s has become read-only: %w", b.mountPoint, err).
			WithRemedy("look at the kernel log of this node, and mount the volume writable: it grows at that moment")
	case errors.Is(err, unix.EFBIG):
		return volume.Errorf(volume.KindInternal, "the device %s is smaller than the kernel said before: %w", b.devicePath, err).
			WithRemedy("check its size on this node and in the storage system")
	case errors.Is(err, unix.EPERM):
		return volume.Errorf(volume.KindPrecondition, "growing btrfs needs CAP_SYS_ADMIN, which this process lacks: %w", err).
			WithRemedy("run the node plugin privileged")
	}
	return volume.Errorf(volume.KindInternal, "growing the filesystem at %s (BTRFS_IOC_RESIZE): %w", b.mountPoint, err).
		WithRemedy("the kernel log of this node names the cause")
}

func (b *btrfsGrower) toolCommand(blocks uint64) []string {
	return []string{"btrfs", "filesystem", "resize", b.spec(blocks), b.mountPoint}
}
