package blockdev

import (
	"io/fs"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernel is the set of system calls whose result depends on the machine. Tests put a fake
// in its place.
type kernel interface {
	// ReadFile reads a file of sysfs or /proc.
	ReadFile(path string) ([]byte, error)
	// Stat and Fstat return the number of a block special file; ENOTBLK for another file.
	Stat(path string) (DeviceNumber, error)
	Fstat(f *os.File) (DeviceNumber, error)
	Size(f *os.File) (int64, error)    // in bytes
	BlockSize(f *os.File) (int, error) // in bytes
	IsReadOnly(f *os.File) (bool, error)
	SetReadOnly(f *os.File, readOnly bool) error
	// SetLoopCapacity gives a loop device the size of its backing file.
	SetLoopCapacity(f *os.File) error
}

// linuxKernel is the running kernel. Its errors name the system call and wrap the errno.
type linuxKernel struct{}

func (linuxKernel) ReadFile(path string) ([]byte, error) { return os.ReadFile(path) }

func (linuxKernel) Stat(path string) (DeviceNumber, error) { return NumberOf(path) }

// NumberOf returns the number of the block device whose node is at path. The error wraps
// the errno of stat(2); it is ENOTBLK for a file of another kind.
func NumberOf(path string) (DeviceNumber, error) {
	info, err := os.Stat(path)
	return nodeNumber(path, info, err)
}

func (linuxKernel) Fstat(f *os.File) (DeviceNumber, error) {
	info, err := f.Stat()
	return nodeNumber(f.Name(), info, err)
}

// nodeNumber returns the number in the result of stat(2).
func nodeNumber(path string, info fs.FileInfo, err error) (DeviceNumber, error) {
	if err != nil {
		return DeviceNumber{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode().Type() != fs.ModeDevice {
		return DeviceNumber{}, &fs.PathError{Op: "stat", Path: path, Err: unix.ENOTBLK}
	}
	rdev := uint64(st.Rdev) //nolint:unconvert // 32 bits wide on some architectures
	return DeviceNumber{Major: unix.Major(rdev), Minor: unix.Minor(rdev)}, nil
}

// withDescriptor makes a system call on the descriptor of f. The descriptor stays open
// until the call returns, even if f is closed during it.
func withDescriptor(f *os.File, call func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	if err := conn.Control(func(fd uintptr) { callErr = call(int(fd)) }); err != nil {
		return err
	}
	return callErr
}

// Size calls BLKGETSIZE64 (<linux/fs.h>). The kernel writes a u64, although the ioctl's
// number is made of a size_t.
func (linuxKernel) Size(f *os.File) (int64, error) {
	var size uint64
	if err := ioctl(f, unix.BLKGETSIZE64, unsafe.Pointer(&size)); err != nil {
		return 0, os.NewSyscallError("ioctl BLKGETSIZE64", err)
	}
	return int64(size), nil
}

// BlockSize calls BLKSSZGET (<linux/fs.h>).
func (linuxKernel) BlockSize(f *os.File) (size int, err error) {
	err = withDescriptor(f, func(fd int) (err error) { size, err = unix.IoctlGetInt(fd, unix.BLKSSZGET); return err })
	return size, os.NewSyscallError("ioctl BLKSSZGET", err)
}

// IsReadOnly calls BLKROGET (<linux/fs.h>).
func (linuxKernel) IsReadOnly(f *os.File) (bool, error) {
	var v uint32
	err := withDescriptor(f, func(fd int) (err error) { v, err = unix.IoctlGetUint32(fd, unix.BLKROGET); return err })
	return v != 0, os.NewSyscallError("ioctl BLKROGET", err)
}

// SetReadOnly calls BLKROSET (<linux/fs.h>), for which a read-only descriptor suffices.
func (linuxKernel) SetReadOnly(f *os.File, readOnly bool) error {
	v := 0
	if readOnly {
		v = 1
	}
	err := withDescriptor(f, func(fd int) error { return unix.IoctlSetPointerInt(fd, unix.BLKROSET, v) })
	return os.NewSyscallError("ioctl BLKROSET", err)
}

// SetLoopCapacity calls LOOP_SET_CAPACITY (<linux/loop.h>), for which a read-only
// descriptor suffices with CAP_SYS_ADMIN.
func (linuxKernel) SetLoopCapacity(f *os.File) error {
	err := withDescriptor(f, func(fd int) error { return unix.IoctlSetInt(fd, unix.LOOP_SET_CAPACITY, 0) })
	return os.NewSyscallError("ioctl LOOP_SET_CAPACITY", err)
}

func ioctl(f *os.File, request uint, arg unsafe.Pointer) error {
	return withDescriptor(f, func(fd int) error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg))
		if errno != 0 {
			return errno
		}
		return nil
	})
}
