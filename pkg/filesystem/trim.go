package filesystem

import (
	"context"
	"errors"
	"math"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// This file returns the space of deleted files to the storage below a mounted filesystem.

// TrimRequest asks for a trim of a mounted filesystem.
type TrimRequest struct {
	Device     Device
	MountPoint string // of the filesystem on Device; the mount must be writable
}

// trimPortion is how much of an ext filesystem one request to the kernel trims. It is a multiple
// of every size that a block group has with blocks of up to 4 KiB.
const trimPortion = volume.GiB

// Trim discards the free blocks of a mounted filesystem, and returns how many bytes the kernel says
// that it has discarded. It works in portions, because the kernel cannot be interrupted in one, and
// ends after the portion in which ctx ends: the error then comes with the bytes of the portions
// that were done.
//
// What is discarded is not the same as what the storage gains: XFS discards all free blocks each
// time, ext4 only those that were freed since the last trim or mount.
//
// Kinds: Unsupported (the filesystem is read-only, or its device does not discard), Precondition
// (as for Grow: not mounted, another device, shut down), Deadline, Canceled, Internal.
func (s *System) Trim(ctx context.Context, req TrimRequest) (volume.Size, error) {
	f, g, err := s.openGrower(req.Device, req.MountPoint)
	if err != nil {
		return 0, err
	}
	defer f.close()
	if f.isReadOnly {
		return 0, volume.Errorf(volume.KindUnsupported,
			"the filesystem at %s is read-only, so that its free space cannot be discarded", req.MountPoint)
	}
	geometry, err := g.readGeometry(ctx)
	if err != nil {
		return 0, err
	}
	portion := portionOf(g)
	var trimmed volume.Size
	for start := volume.Size(0); start < geometry.size(); start += portion {
		if err := ctx.Err(); err != nil {
			return trimmed, volume.Errorf(volume.KindOf(err),
				"the trim of the filesystem at %s has ended at %s of %s, after discarding %s: %w",
				req.MountPoint, start, geometry.size(), trimmed, context.Cause(ctx))
		}
		bytes, err := f.mount.trim(uint64(start), uint64(portion)) //nolint:gosec // both are at least zero
		if err != nil {
			return trimmed, f.trimError(err)
		}
		trimmed += volume.Size(bytes) //nolint:gosec // at most the size of the filesystem
		if portion == math.MaxInt64 {
			break
		}
	}
	return trimmed, nil
}

// portionOf returns how much of a filesystem one request to the kernel trims. XFS discards a free
// extent as a whole if it overlaps the range, so that smaller ranges than allocation groups, which
// no extent crosses, would discard it several times (fs/xfs/xfs_discard.c, xfs_trim_extents). btrfs
// discards all unallocated space with each request, whatever its range (fs/btrfs/extent-tree.c,
// btrfs_trim_fs).
func portionOf(g grower) volume.Size {
	switch g := g.(type) {
	case *extGrower:
		return trimPortion
	case *xfsGrower:
		return volume.Size(g.geometry.agBlocks) * volume.Size(g.geometry.blockSize)
	default:
		return math.MaxInt64
	}
}

// trimError adds kind and next step to an error of FITRIM.
func (f *mountedFilesystem) trimError(err error) error {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTTY):
		return volume.Errorf(volume.KindUnsupported,
			"the filesystem at %s cannot discard its free space: its device %s, or its type %s, does not discard: %w",
			f.mountPoint, f.device.Path(), f.entry.FSType, err)
	case errors.Is(err, unix.EROFS):
		return volume.Errorf(volume.KindUnsupported,
			"the filesystem at %s is read-only, so that its free space cannot be discarded: %w", f.mountPoint, err)
	case errors.Is(err, unix.EPERM):
		return volume.Errorf(volume.KindInternal, "cannot trim the filesystem at %s (FITRIM): %w", f.mountPoint, err).
			WithRemedy("give CAP_SYS_ADMIN to the container of the node plugin")
	case isShutDownErrno(err):
		return newShutDownError(f.mountPoint, err)
	}
	return volume.Errorf(volume.KindInternal, "cannot trim the filesystem at %s (FITRIM): %w", f.mountPoint, err).
		WithRemedy("check the kernel log of this node")
}
