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

// extGrower grows ext2, ext3 and ext4, by EXT4_IOC_RESIZE_FS: the kernel's ext4 driver
// serves all three.
type extGrower struct {
	*mountedFilesystem
	superblock extSuperblock
}

func (e *extGrower) readGeometry(ctx context.Context) (geometry, error) {
	var err error
	if e.superblock, err = readExtSuperblock(ctx, e.device); err != nil {
		return geometry{}, err
	}
	return e.superblock.geometry(), nil
}

// goal rounds down to whole pages of 4 KiB, as resize2fs does, and to whole clusters. It also
// keeps to the limits of the format, which the kernel does not check in time: growing past 2^32
// blocks without the 64bit feature stops the kernel with a BUG.
func (e *extGrower) goal(device volume.Size) goal {
	sb := e.superblock
	blocks := uint64(device) / uint64(sb.blockSize)
	var limit *formatLimit
	if !sb.has64bit() && blocks > math.MaxUint32 {
		blocks = math.MaxUint32
		limit = &formatLimit{
			size:   volume.Size(sb.blockSize) << 32,
			reason: "without the 64bit feature it can have fewer than 2^32 blocks of " + volume.Size(sb.blockSize).String(),
		}
	}
	maxGroups := uint64(math.MaxUint32) / uint64(sb.inodesPerGroup)
	if maxBlocks := uint64(sb.firstDataBlock) + maxGroups*uint64(sb.blocksPerGroup); blocks > maxBlocks {
		blocks = maxBlocks
		limit = &formatLimit{
			size:   volume.Size(maxBlocks) * volume.Size(sb.blockSize),
			reason: fmt.Sprintf("with %d inodes per group it reaches its limit of 2^32 inodes", sb.inodesPerGroup),
		}
	}
	blocks -= blocks % max(4096/uint64(sb.blockSize), uint64(sb.clusterRatio))
	minMetadata, maxMetadata := e.metadataBlocks(blocks)
	result := goal{
		blocks: blocks, full: e.withoutTail(blocks, minMetadata), minResult: e.withoutTail(blocks, maxMetadata), limit: limit,
	}
	if sb.blocks > result.minResult {
		result.minResult = blocks // the last group exists already, so the kernel does not leave it out
	}
	return result
}

// withoutTail returns blocks without a last group that has at most metadata blocks: the
// kernel (ext4_resize_fs) makes no group that could hold little more than its own metadata.
func (e *extGrower) withoutTail(blocks, metadata uint64) uint64 {
	first := uint64(e.superblock.firstDataBlock)
	if blocks <= first {
		return blocks
	}
	if tail := (blocks - first) % uint64(e.superblock.blocksPerGroup); tail <= metadata {
		return blocks - tail
	}
	return blocks
}

// metadataBlocks bounds the blocks that the kernel counts as metadata of the last group:
// two bitmaps (or its margin), the inode table and a cluster in every group; superblock,
// descriptors and reserved descriptors in some, by features.
func (e *extGrower) metadataBlocks(blocks uint64) (minimum, maximum uint64) {
	sb := e.superblock
	groups := blocks/uint64(sb.blocksPerGroup) + 1
	descriptors := groups/max(uint64(sb.blockSize/sb.descriptorSize), 1) + 1
	inodeTable := uint64(sb.inodesPerGroup) * uint64(sb.inodeSize) / uint64(sb.blockSize)
	minimum = 2 + inodeTable + uint64(sb.clusterRatio)
	return minimum, minimum + 1 + descriptors + uint64(sb.reservedDescriptorBlocks) + 2
}

// checkHealth also refuses an ext with errors recorded: a growth that failed half-way
// leaves the new size in memory, and an error.
func (e *extGrower) checkHealth() error {
	if e.superblock.hasErrors() {
		return e.recordedErrors(nil)
	}
	return e.mountedFilesystem.checkHealth()
}

// recordedErrors is the error for an ext with errors recorded.
func (e *extGrower) recordedErrors(cause error) error {
	err := volume.Errorf(volume.KindPrecondition, "the kernel has found errors in the filesystem at %s (%d recorded): "+
		"its size cannot be trusted, and it does not grow until they are repaired", e.mountPoint, e.superblock.errorCount)
	err.Cause = cause
	return err.WithRemedy("stop the pods that use the volume, check that the storage below has free space, " +
		"take a snapshot, and run: e2fsck -f " + e.device.Path() + "; the filesystem then grows when it is mounted again")
}

func (e *extGrower) checkGrowable() error {
	if e.superblock.compat&extCompatSparseSuper2 != 0 {
		return volume.Errorf(volume.KindPrecondition,
			"the filesystem at %s has the feature sparse_super2, with which the kernel cannot grow it online", e.mountPoint).
			WithRemedy("stop the pods that use the volume and run by hand: e2fsck -f " + e.device.Path() +
				" && resize2fs " + e.device.Path() + "; or copy the data to a new volume")
	}
	return e.sys.CheckGrowExt()
}

// CheckGrowExt returns an error of kind Precondition if this process lacks
// CAP_SYS_RESOURCE in the initial user namespace, which EXT4_IOC_RESIZE_FS demands, and of
// kind Internal if it cannot read its capabilities.
func (s *System) CheckGrowExt() error {
	capabilities, err := s.kernel.capabilities()
	if err != nil {
		return volume.Errorf(volume.KindInternal, "cannot read the capabilities of this process: %w", err)
	}
	if capabilities&(1<<unix.CAP_SYS_RESOURCE) == 0 {
		return missingCapabilityError(nil)
	}
	return nil
}

func missingCapabilityError(cause error) error {
	e := volume.Errorf(volume.KindPrecondition, "growing ext2, ext3 and ext4 online needs CAP_SYS_RESOURCE "+
		"in the initial user namespace, which this process lacks")
	e.Cause = cause
	return e.WithRemedy("run the node plugin privileged, or add SYS_RESOURCE to its capabilities")
}

func (e *extGrower) resize(blocks uint64) error { return e.mount.ext4Resize(blocks) }

func (e *extGrower) isBusy(err error) bool { return errors.Is(err, unix.EBUSY) }

// explainError reads the superblock again after EPERM, which the kernel returns for two
// causes: an error may have been recorded since checkHealth.
func (e *extGrower) explainError(ctx context.Context, err error) error {
	if !errors.Is(err, unix.EPERM) {
		return e.explainErrno(err, "EXT4_IOC_RESIZE_FS")
	}
	if _, readErr := e.readGeometry(context.WithoutCancel(ctx)); readErr == nil && e.superblock.hasErrors() {
		return e.recordedErrors(err)
	}
	return missingCapabilityError(err)
}

func (e *extGrower) toolCommand(blocks uint64) []string {
	return []string{"resize2fs", e.device.Path(), strconv.FormatUint(blocks, 10)}
}
