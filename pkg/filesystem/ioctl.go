package filesystem

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctl numbers of the filesystems, which golang.org/x/sys/unix does not have. They are
// the same on all architectures with the generic _IOC encoding (x86, ARM, RISC-V, s390x).
// ppc64, mips and sparc encode the direction in another way and are not supported.
const (
	ext4IOCResizeFS    = 0x40086610 // EXT4_IOC_RESIZE_FS, linux/ext4.h: _IOW('f', 16, __u64)
	xfsIOCFSGeometry   = 0x8100587e // XFS_IOC_FSGEOMETRY, fs/xfs/libxfs/xfs_fs.h: _IOR('X', 126, struct xfs_fsop_geom)
	xfsIOCFSGeometryV4 = 0x8070587c // XFS_IOC_FSGEOMETRY_V4, before Linux 5.2: _IOR('X', 124, struct xfs_fsop_geom_v4)
	xfsIOCGrowFSData   = 0x4010586e // XFS_IOC_FSGROWFSDATA, fs/xfs/libxfs/xfs_fs.h: _IOW('X', 110, struct xfs_growfs_data)
	btrfsIOCResize     = 0x50009403 // BTRFS_IOC_RESIZE, linux/btrfs.h: _IOW(0x94, 3, struct btrfs_ioctl_vol_args)
	btrfsIOCDevInfo    = 0xd000941e // BTRFS_IOC_DEV_INFO, linux/btrfs.h: _IOWR(0x94, 30, struct btrfs_ioctl_dev_info_args)
	ioctlTrim          = 0xc0185879 // FITRIM, linux/fs.h: _IOWR('X', 121, struct fstrim_range)
	btrfsIOCFSInfo     = 0x8400941f // BTRFS_IOC_FS_INFO, linux/btrfs.h: _IOR(0x94, 31, struct btrfs_ioctl_fs_info_args)
)

// xfsGeometry is struct xfs_fsop_geom; struct xfs_fsop_geom_v4 is its beginning.
type xfsGeometry struct {
	blockSize  uint32
	_          uint32 // rtextsize
	agBlocks   uint32
	agCount    uint32
	_          [3]uint32 // logblocks, sectsize, inodesize
	imaxpct    uint32
	dataBlocks uint64
	_          [216]byte // realtime, log, UUID, stripes, flags
}

// xfsGrowFSData is struct xfs_growfs_data.
type xfsGrowFSData struct {
	newBlocks uint64
	imaxpct   uint32
	_         uint32
}

// btrfsVolArgs is struct btrfs_ioctl_vol_args.
type btrfsVolArgs struct {
	_    int64 // fd
	name [4088]byte
}

// btrfsInfo is struct btrfs_ioctl_fs_info_args.
type btrfsInfo struct {
	maxID      uint64
	devices    uint64
	_          [16]byte // fsid
	_          uint32   // nodesize
	sectorSize uint32
	_          [984]byte
}

// btrfsDevInfoArgs is struct btrfs_ioctl_dev_info_args.
type btrfsDevInfoArgs struct {
	devID      uint64
	_          [16]byte // uuid
	_          uint64   // bytes_used
	totalBytes uint64
	_          [379]uint64
	path       [1024]byte
}

// trimRange is struct fstrim_range. The kernel sets length to what it has discarded.
type trimRange struct {
	start, length uint64 // in bytes
	_             uint64 // minlen
}

// ioctl calls ioctl(2) and returns its result, which is zero for most requests. The error
// is the errno.
func ioctl[T any](fd int, request uintptr, arg *T) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}
