package filesystem

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// capSysResource is the bit of CAP_SYS_RESOURCE (linux/capability.h), which
// EXT4_IOC_RESIZE_FS demands in the initial user namespace.
const capSysResource = 24

// extGrower grows ext2, ext3 and ext4, which the kernel's ext4 driver serves
// all three.
type extGrower struct {
	*mountedFilesystem
	superblock extSuperblock
}

func (e *extGrower) readGeometry(ctx context.Context) (Geometry, error) {
	var err error
	if e.superblock, err = readExtSuperblock(ctx, e.device); err != nil {
		return Geometry{}, err
	}
	return extGeometry(e.superblock), nil
}

// goal rounds down to whole pages, as resize2fs does (the page cache of the
// device holds nothing smaller), and to whole clusters. Before that come the
// limits of the format, of which the kernel checks neither in time: growing
// past 2^32 blocks without the 64bit feature stops it with a BUG.
func (e *extGrower) goal(device volume.Size) goal {
	s := e.superblock
	blocks := uint64(device) / uint64(s.blockSize)
	var limit *formatLimit
	if !s.has64bit() && blocks > math.MaxUint32 {
		blocks = math.MaxUint32
		limit = &formatLimit{
			size:   volume.Size(s.blockSize) << 32,
			reason: "it lacks the 64bit feature, so it has fewer than 2^32 blocks of " + volume.Size(s.blockSize).String(),
		}
	}
	groups := uint64(math.MaxUint32) / uint64(s.inodesPerGroup)
	if most := uint64(s.firstDataBlock) + groups*uint64(s.blocksPerGroup); blocks > most {
		blocks = most
		limit = &formatLimit{
			size:   volume.Size(most) * volume.Size(s.blockSize),
			reason: fmt.Sprintf("with %d inodes per group it reaches its limit of 2^32 inodes", s.inodesPerGroup),
		}
	}
	blocks -= blocks % max(4096/uint64(s.blockSize), uint64(s.clusterRatio))
	fewest, most := e.metadataBlocks(blocks)
	result := goal{blocks: blocks, full: e.withoutTail(blocks, fewest), minResult: e.withoutTail(blocks, most), limit: limit}
	if s.blocks > result.minResult {
		result.minResult = blocks // the last group exists already, so it is not too short
	}
	return result
}

// withoutTail leaves out a last group of no more than so many blocks: the
// kernel (ext4_resize_fs) makes no group that could hold little more than its
// own metadata.
func (e *extGrower) withoutTail(blocks, metadata uint64) uint64 {
	if blocks <= uint64(e.superblock.firstDataBlock) {
		return blocks
	}
	if tail := (blocks - uint64(e.superblock.firstDataBlock)) % uint64(e.superblock.blocksPerGroup); tail <= metadata {
		return blocks - tail
	}
	return blocks
}

// metadataBlocks bounds what the kernel reckons for the metadata of the last
// group: two bitmaps (or its margin), inode table and a cluster in every
// group; superblock, descriptors and those reserved in some, by features.
func (e *extGrower) metadataBlocks(blocks uint64) (fewest, most uint64) {
	s := e.superblock
	groups := blocks/uint64(s.blocksPerGroup) + 1
	descriptors := groups/max(uint64(s.blockSize/s.descriptorSize), 1) + 1
	inodeTable := uint64(s.inodesPerGroup) * uint64(s.inodeSize) / uint64(s.blockSize)
	fewest = 2 + inodeTable + uint64(s.clusterRatio)
	return fewest, fewest + 1 + descriptors + uint64(s.reservedDescriptorBlocks) + 2
}

func (e *extGrower) checkGrowable() error {
	if e.superblock.compat&extCompatSparseSuper2 != 0 {
		return volume.Errorf(volume.KindPrecondition, "the filesystem at %s has the feature sparse_super2, with which the kernel cannot grow it online", e.mountPoint).
			WithRemedy("stop the pods that use the volume and run e2fsck -f and resize2fs on it by hand, or copy the data to a new volume")
	}
	return e.sys.CheckGrowExt()
}

func (e *extGrower) flaggedError(cause error) error {
	err := volume.Errorf(volume.KindPrecondition, "the kernel has found errors in the filesystem at %s (%d recorded): its size cannot be trusted, and it is not grown until they are repaired",
		e.mountPoint, e.superblock.errorCount)
	err.Cause = cause
	return err.WithRemedy("stop the pods that use the volume, see that the storage below has room, take a snapshot, and run e2fsck -f " + e.devicePath + "; it then grows when it is mounted again")
}

func (e *extGrower) resize(blocks uint64) error { return e.mount.ext4Resize(blocks) }

func (e *extGrower) isBusy(err error) bool { return errors.Is(err, unix.EBUSY) }

func (e *extGrower) explainError(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		// The kernel has one errno for two causes; an error may have been
		// flagged since guard looked.
		if _, readErr := e.readGeometry(context.WithoutCancel(ctx)); readErr == nil && e.superblock.hasErrors() {
			return e.flaggedError(err)
		}
		return missingCapabilityError(err)
	case errors.Is(err, unix.EROFS):
		return volume.Errorf(volume.KindPrecondition, "the filesystem at %s has become read-only: %w", e.mountPoint, err).
			WithRemedy("look at the kernel log of this node; an error may have made it so, then run e2fsck -f " + e.devicePath + " while it is unmounted")
	case isShutDownErrno(err), errors.Is(err, unix.ENOSPC):
		return e.growthFailedError(err)
	}
	return volume.Errorf(volume.KindInternal, "growing the filesystem at %s (EXT4_IOC_RESIZE_FS): %w", e.mountPoint, err).
		WithRemedy("the kernel log of this node names the cause")
}

func (e *extGrower) toolCommand(blocks uint64) []string {
	return []string{"resize2fs", e.devicePath, strconv.FormatUint(blocks, 10)}
}
