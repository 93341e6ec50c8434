package filesystem

import (
	"io"

	"github.com/growvol/growvol/pkg/blockdev"
)

// kernel is all this package asks of the operating system. Errors are the
// bare errno, so that the decision about each one is made, and tested, here.
type kernel interface {
	// openMount opens a directory for reading; the descriptor pins the mount.
	openMount(path string) (mountHandle, error)
	// statMount looks at a path without following a final automount.
	statMount(path string) (mountStat, error)
	// mounts reads the mount table of this process (/proc/self/mountinfo).
	mounts() ([]Mount, error)
	// deviceNumber returns st_rdev of a block device node.
	deviceNumber(path string) (blockdev.DeviceNumber, error)
	// capabilities returns CapEff of /proc/self/status.
	capabilities() (uint64, error)
	// statfs counts blocks and inodes.
	statfs(path string) (fsStat, error)
	// mount is mount(2).
	mount(source, target, fstype string, flags uintptr, data string) error
	// bind makes a bind mount that has the flags (unix.MOUNT_ATTR_*) before
	// anybody can see it, by open_tree(2), mount_setattr(2) (Linux 5.12) and
	// move_mount(2).
	bind(source, target string, set, unset uint64) error
	// unmount is umount2(2).
	unmount(target string, flags int) error
}

// mountHandle is an open directory on a mounted filesystem.
type mountHandle interface {
	io.Closer
	stat() (mountStat, error)
	statfs() (fsStat, error)
	// ext4Resize asks for a total number of filesystem blocks.
	ext4Resize(blocks uint64) error
	xfsGeometry() (xfsGeometry, error)
	xfsGrow(blocks uint64, imaxpct uint32) error
	btrfsInfo() (btrfsInfo, error)
	// btrfsDevice answers ENODEV for an id that is not in use.
	btrfsDevice(id uint64) (btrfsDevice, error)
	// btrfsResize returns the positive answer that btrfs gives for some
	// refusals (enum btrfs_err_code in linux/btrfs.h); 0 is success.
	btrfsResize(spec string) (code int, err error)
}

// mountStat is what statx(2) says of a path.
type mountStat struct {
	device  blockdev.DeviceNumber // of the filesystem that holds the path
	mountID int                   // 0 when the kernel does not tell (before 5.8)
	root    bool                  // the path is the root of a mount
	node    blockdev.DeviceNumber // st_rdev, if the path is the node of a block device
}

// fsStat is what statfs(2) says of a filesystem.
type fsStat struct {
	magic      uint32
	flags      int64 // ST_*, the flags of the mount
	blockSize  int64
	blocks     uint64
	free       uint64
	available  uint64
	inodes     uint64
	inodesFree uint64
}

// xfsGeometry is the part of struct xfs_fsop_geom this package uses.
type xfsGeometry struct {
	blockSize  uint32
	agBlocks   uint32
	agCount    uint32
	imaxpct    uint32
	dataBlocks uint64
}

// btrfsInfo is the part of struct btrfs_ioctl_fs_info_args this package uses.
type btrfsInfo struct {
	maxID      uint64
	devices    uint64
	sectorSize uint32
}

// btrfsDevice is the part of struct btrfs_ioctl_dev_info_args this package
// uses.
type btrfsDevice struct {
	id         uint64
	totalBytes uint64
	path       string
}
