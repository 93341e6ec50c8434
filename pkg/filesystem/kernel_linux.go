package filesystem

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
)

// linuxKernel is the kernel this program runs on.
type linuxKernel struct{}

func (linuxKernel) openMount(path string) (mountHandle, error) {
	fd, err := openRetry(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return mountFD(fd), nil
}

// openRetry repeats an open that a signal of the Go runtime interrupted.
func openRetry(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

func (linuxKernel) statMount(path string) (mountStat, error) { return statx(unix.AT_FDCWD, path, 0) }

func statx(dir int, path string, flags int) (mountStat, error) {
	var x unix.Statx_t
	flags |= unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
	if err := unix.Statx(dir, path, flags, unix.STATX_TYPE|unix.STATX_MNT_ID, &x); err != nil {
		return mountStat{}, err
	}
	s := mountStat{device: blockdev.DeviceNumber{Major: x.Dev_major, Minor: x.Dev_minor}}
	if x.Mode&unix.S_IFMT == unix.S_IFBLK {
		s.node = blockdev.DeviceNumber{Major: x.Rdev_major, Minor: x.Rdev_minor}
	}
	if x.Mask&unix.STATX_MNT_ID != 0 && x.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		s.mountID = int(x.Mnt_id)
		s.root = x.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
	}
	return s, nil
}

func (linuxKernel) mounts() ([]Mount, error) {
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, err
	}
	mounts := make([]Mount, 0, len(infos))
	for _, i := range infos {
		mounts = append(mounts, Mount{
			ID: i.ID, Parent: i.Parent, MountPoint: i.Mountpoint, Root: i.Root,
			Device: blockdev.DeviceNumber{Major: uint32(i.Major), Minor: uint32(i.Minor)}, FSType: i.FSType, Source: i.Source,
			Options: splitOptions(i.Options), SuperOptions: splitOptions(i.VFSOptions),
			IsShared: slices.ContainsFunc(strings.Fields(i.Optional), func(f string) bool { return strings.HasPrefix(f, "shared:") }),
		})
	}
	return mounts, nil
}

func splitOptions(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func (linuxKernel) deviceNumber(path string) (blockdev.DeviceNumber, error) {
	return blockdev.NumberOf(path)
}

func (linuxKernel) capabilities() (uint64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(status)); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
	}
	return 0, errors.New("/proc/self/status has no CapEff line")
}

func (linuxKernel) statfs(path string) (fsStat, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return fsStat{}, err
	}
	return newFSStat(&st), nil
}

func newFSStat(st *unix.Statfs_t) fsStat {
	unit := st.Frsize
	if unit == 0 {
		unit = st.Bsize
	}
	return fsStat{
		magic: uint32(st.Type), flags: st.Flags, blockSize: unit, blocks: st.Blocks, free: st.Bfree, available: st.Bavail,
		inodes: st.Files, inodesFree: st.Ffree,
	}
}

func (linuxKernel) mount(source, target, fstype string, flags uintptr, data string) error {
	return unix.Mount(source, target, fstype, flags, data)
}

func (linuxKernel) bind(source, target string, set, unset uint64) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // takes the mount with it, unless it was moved
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: set, Attr_clr: unset}); err != nil {
		return err
	}
	return unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)
}

func (linuxKernel) unmount(target string, flags int) error { return unix.Unmount(target, flags) }

// mountFD is a descriptor of a directory on a mounted filesystem.
type mountFD int

func (fd mountFD) Close() error { return unix.Close(int(fd)) }

func (fd mountFD) stat() (mountStat, error) { return statx(int(fd), "", unix.AT_EMPTY_PATH) }

func (fd mountFD) statfs() (fsStat, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(fd), &st); err != nil {
		return fsStat{}, err
	}
	return newFSStat(&st), nil
}

func (fd mountFD) ext4Resize(blocks uint64) error {
	_, err := ioctl(int(fd), ext4IOCResizeFS, &blocks)
	return err
}

func (fd mountFD) xfsGeometry() (xfsGeometry, error) {
	var g xfsFSOpGeom
	_, err := ioctl(int(fd), xfsIOCFSGeometry, &g)
	if errors.Is(err, unix.ENOTTY) {
		_, err = ioctl(int(fd), xfsIOCFSGeometryV4, &g)
	}
	if err != nil {
		return xfsGeometry{}, err
	}
	return xfsGeometry{blockSize: g.blockSize, agBlocks: g.agBlocks, agCount: g.agCount, imaxpct: g.imaxpct, dataBlocks: g.dataBlocks}, nil
}

func (fd mountFD) xfsGrow(blocks uint64, imaxpct uint32) error {
	_, err := ioctl(int(fd), xfsIOCGrowFSData, &xfsGrowFSData{newBlocks: blocks, imaxpct: imaxpct})
	return err
}

func (fd mountFD) btrfsInfo() (btrfsInfo, error) {
	var a btrfsFSInfoArgs
	if _, err := ioctl(int(fd), btrfsIOCFSInfo, &a); err != nil {
		return btrfsInfo{}, err
	}
	return btrfsInfo{maxID: a.maxID, devices: a.numDevices, sectorSize: a.sectorSize}, nil
}

func (fd mountFD) btrfsDevice(id uint64) (btrfsDevice, error) {
	a := btrfsDevInfoArgs{devID: id}
	if _, err := ioctl(int(fd), btrfsIOCDevInfo, &a); err != nil {
		return btrfsDevice{}, err
	}
	path, _, _ := bytes.Cut(a.path[:], []byte{0})
	return btrfsDevice{id: a.devID, totalBytes: a.totalBytes, path: string(path)}, nil
}

func (fd mountFD) btrfsResize(spec string) (int, error) {
	var a btrfsVolArgs
	if copy(a.name[:len(a.name)-1], spec) < len(spec) {
		return 0, unix.ENAMETOOLONG
	}
	return ioctl(int(fd), btrfsIOCResize, &a)
}
