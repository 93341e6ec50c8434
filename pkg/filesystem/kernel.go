package filesystem

import (
	"io"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
)

// kernel is the set of system calls that this package makes. Tests put a fake in its place.
// Its errors are, or wrap, the errno: the callers decide what each one means.
type kernel interface {
	// openMount opens a directory for reading. The mount cannot be unmounted before Close.
	openMount(path string) (mountHandle, error)
	// statMount calls statx(2), without triggering an automount at the end of the path.
	statMount(path string) (mountStat, error)
	// mounts reads the mount table of this process (/proc/self/mountinfo).
	mounts() ([]Mount, error)
	// deviceNumber returns the number of a block device node; see blockdev.NumberOf.
	deviceNumber(path string) (blockdev.DeviceNumber, error)
	// capabilities returns the effective capabilities 0 to 31, as bits.
	capabilities() (uint32, error)
	// statfs calls statfs(2).
	statfs(path string) (unix.Statfs_t, error)
	// mount calls mount(2).
	mount(source, target, fstype string, flags uintptr, data string) error
	// bind makes a bind mount that has its flags (unix.MOUNT_ATTR_*) before any process can
	// see it, by open_tree(2), mount_setattr(2) (Linux 5.12) and move_mount(2).
	bind(source, target string, set, unset uint64) error
	// unmount calls umount2(2).
	unmount(target string, flags int) error
}

// mountHandle is an open directory on a mounted filesystem.
type mountHandle interface {
	io.Closer
	stat() (mountStat, error)
	statfs() (unix.Statfs_t, error)
	// ext4Resize requests a total number of filesystem blocks (EXT4_IOC_RESIZE_FS).
	ext4Resize(blocks uint64) error
	xfsGeometry() (xfsGeometry, error)
	// xfsGrow requests a total number of filesystem blocks (XFS_IOC_FSGROWFSDATA), and sets
	// the maximum share of inodes, in percent.
	xfsGrow(blocks uint64, imaxpct uint32) error
	// trim discards the free blocks in a range of the filesystem, in bytes (FITRIM). It returns how
	// many bytes the filesystem has discarded.
	trim(start, length uint64) (uint64, error)
	btrfsInfo() (btrfsInfo, error)
	// btrfsDevice returns ENODEV for an id that is not in use.
	btrfsDevice(id uint64) (btrfsDevice, error)
	// btrfsResize returns the positive result of some refusals (enum btrfs_err_code in
	// linux/btrfs.h); 0 is success.
	btrfsResize(argument string) (code int, err error)
}

// mountStat is the part of the result of statx(2) that this package uses.
type mountStat struct {
	device  blockdev.DeviceNumber // of the filesystem that holds the path
	mountID int                   // 0 before Linux 5.8, which does not report it
	isRoot  bool                  // the path is the root of a mount
	node    blockdev.DeviceNumber // st_rdev if the path is the node of a block device
}

// btrfsDevice is the part of struct btrfs_ioctl_dev_info_args that this package uses.
type btrfsDevice struct {
	id         uint64
	totalBytes uint64
	path       string
}
