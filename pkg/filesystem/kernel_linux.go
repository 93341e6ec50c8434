package filesystem

import (
	"bytes"
	"errors"
	"os"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
)

// linuxKernel implements kernel by the system calls of the running kernel.
type linuxKernel struct{}

func (linuxKernel) openMount(path string) (mountHandle, error) {
	f, err := os.OpenFile(path, unix.O_DIRECTORY, 0)
	return openDir{f}, err
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
		s.isRoot = x.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
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
			ID: i.ID, Parent: i.Parent, MountPoint: i.Mountpoint, Root: i.Root, FSType: i.FSType, Source: i.Source,
			Device:  blockdev.DeviceNumber{Major: uint32(i.Major), Minor: uint32(i.Minor)},
			Options: strings.Split(i.Options, ","), SuperOptions: strings.Split(i.VFSOptions, ","),
			IsShared: strings.HasPrefix(i.Optional, "shared:") || strings.Contains(i.Optional, " shared:"),
		})
	}
	return mounts, nil
}

func (linuxKernel) deviceNumber(path string) (blockdev.DeviceNumber, error) {
	return blockdev.NumberOf(path)
}

func (linuxKernel) capabilities() (uint32, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // capabilities 0 to 31, and 32 to 63
	err := unix.Capget(&header, &data[0])
	return data[0].Effective, err
}

func (linuxKernel) statfs(path string) (st unix.Statfs_t, err error) {
	err = unix.Statfs(path, &st)
	return st, err
}

func (linuxKernel) mount(source, target, fstype string, flags uintptr, data string) error {
	return unix.Mount(source, target, fstype, flags, data)
}

func (linuxKernel) bind(source, target string, set, unset uint64) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // also removes the mount, unless it was moved
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: set, Attr_clr: unset}); err != nil {
		return err
	}
	return unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)
}

func (linuxKernel) unmount(target string, flags int) error { return unix.Unmount(target, flags) }

// openDir is an open directory on a mounted filesystem.
type openDir struct{ *os.File }

func (d openDir) fd() int { return int(d.Fd()) }

func (d openDir) stat() (mountStat, error) { return statx(d.fd(), "", unix.AT_EMPTY_PATH) }

func (d openDir) statfs() (st unix.Statfs_t, err error) {
	err = unix.Fstatfs(d.fd(), &st)
	return st, err
}

func (d openDir) ext4Resize(blocks uint64) error {
	_, err := ioctl(d.fd(), ext4IOCResizeFS, &blocks)
	return err
}

func (d openDir) xfsGeometry() (g xfsGeometry, err error) {
	_, err = ioctl(d.fd(), xfsIOCFSGeometry, &g)
	if errors.Is(err, unix.ENOTTY) {
		_, err = ioctl(d.fd(), xfsIOCFSGeometryV4, &g)
	}
	return g, err
}

func (d openDir) xfsGrow(blocks uint64, imaxpct uint32) error {
	_, err := ioctl(d.fd(), xfsIOCGrowFSData, &xfsGrowFSData{newBlocks: blocks, imaxpct: imaxpct})
	return err
}

func (d openDir) trim(start, length uint64) (uint64, error) {
	r := trimRange{start: start, length: length}
	if _, err := ioctl(d.fd(), ioctlTrim, &r); err != nil {
		return 0, err
	}
	return r.length, nil
}

func (d openDir) btrfsInfo() (info btrfsInfo, err error) {
	_, err = ioctl(d.fd(), btrfsIOCFSInfo, &info)
	return info, err
}

func (d openDir) btrfsDevice(id uint64) (btrfsDevice, error) {
	a := btrfsDevInfoArgs{devID: id}
	if _, err := ioctl(d.fd(), btrfsIOCDevInfo, &a); err != nil {
		return btrfsDevice{}, err
	}
	path, _, _ := bytes.Cut(a.path[:], []byte{0})
	return btrfsDevice{id: a.devID, totalBytes: a.totalBytes, path: string(path)}, nil
}

func (d openDir) btrfsResize(argument string) (int, error) {
	var a btrfsVolArgs
	if copy(a.name[:len(a.name)-1], argument) < len(argument) {
		return 0, unix.ENAMETOOLONG
	}
	return ioctl(d.fd(), btrfsIOCResize, &a)
}
