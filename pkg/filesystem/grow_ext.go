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
	*target
	super extSuper
}

func (g *extGrower) read(ctx context.Context) (Geometry, error) {
	var err error
	if g.super, err = readExt(ctx, g.device); err != nil {
		return Geometry{}, err
	}
	return extGeometry(g.super), nil
}

// goal rounds down to whole pages, as resize2fs does (the page cache of the
// device holds nothing smaller), and to whole clusters. Before that come the
// limits of the format, of which the kernel checks neither in time: growing
// past 2^32 blocks without the 64bit feature stops it with a BUG.
func (g *extGrower) goal(device volume.Size) goal {
	s := g.super
	blocks := uint64(device) / uint64(s.blockSize)
	var limit *formatLimit
	if !s.has64bit() && blocks > math.MaxUint32 {
		blocks = math.MaxUint32
		limit = &formatLimit{
			size: volume.Size(s.blockSize) << 32,
			why:  "it lacks the 64bit feature, so it has fewer than 2^32 blocks of " + volume.Size(s.blockSize).String(),
		}
	}
	groups := uint64(math.MaxUint32) / uint64(s.inodesPerGroup)
	if most := uint64(s.firstData) + groups*uint64(s.blocksPerGroup); blocks > most {
		blocks = most
		limit = &formatLimit{
			size: volume.Size(most) * volume.Size(s.blockSize),
			why:  fmt.Sprintf("with %d inodes per group it reaches its limit of 2^32 inodes", s.inodesPerGroup),
		}
	}
	blocks -= blocks % max(4096/uint64(s.blockSize), uint64(s.clusterRatio))
	fewest, most := g.metadataBlocks(blocks)
	result := goal{blocks: blocks, full: g.withoutTail(blocks, fewest), least: g.withoutTail(blocks, most), limit: limit}
	if s.blocks > result.least {
		result.least = blocks // the last group exists already, so it is not too short
	}
	return result
}

// withoutTail leaves out a last group of no more than so many blocks: the
// kernel (ext4_resize_fs) makes no group that could hold little more than its
// own metadata.
func (g *extGrower) withoutTail(blocks, metadata uint64) uint64 {
	if blocks <= uint64(g.super.firstData) {
		return blocks
	}
	if tail := (blocks - uint64(g.super.firstData)) % uint64(g.super.blocksPerGroup); tail <= metadata {
		return blocks - tail
	}
	return blocks
}

// metadataBlocks bounds what the kernel reckons for the metadata of the last
// group: two bitmaps (or its margin), inode table and a cluster in every
// group; superblock, descriptors and those reserved in some, by features.
func (g *extGrower) metadataBlocks(blocks uint64) (fewest, most uint64) {
	s := g.super
	groups := blocks/uint64(s.blocksPerGroup) + 1
	descriptors := groups/max(uint64(s.blockSize/s.descriptorSize), 1) + 1
	inodeTable := uint64(s.inodesPerGroup) * uint64(s.inodeSize) / uint64(s.blockSize)
	fewest = 2 + inodeTable + uint64(s.clusterRatio)
	return fewest, fewest + 1 + descriptors + uint64(s.reservedGDT) + 2
}

func (g *extGrower) guard() error {
	if g.super.compat&extCompatSparseSuper2 != 0 {
		return volume.Errorf(volume.KindPrecondition, "the filesystem at %s has the feature sparse_super2, with which the kernel cannot grow it online", g.mountPoint).
			WithRemedy("stop the pods that use the volume and run e2fsck -f and resize2fs on it by hand, or copy the data to a new volume")
	}
	return g.sys.CheckGrowExt()
}

func (g *extGrower) flaggedErrors(cause error) error {
	e := volume.Errorf(volume.KindPrecondition, "the kernel has found errors in the filesystem at %s (%d recorded): its size cannot be trusted, and it is not grown until they are repaired",
		g.mountPoint, g.super.errors)
	e.Cause = cause
	return e.WithRemedy("stop the pods that use the volume, see that the storage below has room, take a snapshot, and run e2fsck -f " + g.devicePath + "; it then grows when it is mounted again")
}

func (g *extGrower) resize(blocks uint64) error { return g.mount.ext4Resize(blocks) }

func (g *extGrower) busy(err error) bool { return errors.Is(err, unix.EBUSY) }

func (g *extGrower) explain(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		// The kernel has one errno for two causes; an error may have been
		// flagged since guard looked.
		if _, readErr := g.read(context.WithoutCancel(ctx)); readErr == nil && g.super.hasErrors() {
			return g.flaggedErrors(err)
		}
		return missingCapability(err)
	case errors.Is(err, unix.EROFS):
		return volume.Errorf(volume.KindPrecondition, "the filesystem at %s has become read-only: %w", g.mountPoint, err).
			WithRemedy("look at the kernel log of this node; an error may have made it so, then run e2fsck -f " + g.devicePath + " while it is unmounted")
	case dead(err), errors.Is(err, unix.ENOSPC):
		return g.growthFailed(err)
	}
	return volume.Errorf(volume.KindInternal, "growing the filesystem at %s (EXT4_IOC_RESIZE_FS): %w", g.mountPoint, err).
		WithRemedy("the kernel log of this node names the cause")
}

func (g *extGrower) tool(blocks uint64) []string {
	return []string{"resize2fs", g.devicePath, strconv.FormatUint(blocks, 10)}
}
