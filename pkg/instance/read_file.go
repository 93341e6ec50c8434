package instance

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// readFromFilesystem reads a file of the filesystem on a device. It mounts the filesystem read-only
// and at no path: the mount exists only as a descriptor of this process (fsmount, Linux 5.2), so
// no other process sees it, and it ends with the process.
func readFromFilesystem(device, fstype, name string, maxSize int) (data []byte, err error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot use the filesystem %s of the kernel: %w", fstype, err)
	}
	defer closeInto(fs, &err)
	err = cmp.Or(
		os.NewSyscallError("fsconfig source", unix.FsconfigSetString(fs, "source", device)),
		os.NewSyscallError("fsconfig ro", unix.FsconfigSetFlag(fs, "ro")),
	)
	if err == nil {
		err = os.NewSyscallError("fsconfig create", unix.FsconfigCreate(fs))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the %s filesystem on %s: %w", fstype, device, err)
	}
	const attributes = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return nil, fmt.Errorf("cannot mount the %s filesystem on %s: %w", fstype, device, err)
	}
	defer closeInto(mount, &err)
	fd, err := unix.Openat2(mount, name, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close() //nolint:errcheck // only read from
	data, err = io.ReadAll(io.LimitReader(f, int64(maxSize)+1))
	if err == nil && len(data) > maxSize {
		err = fmt.Errorf("%s is longer than %d bytes", name, maxSize)
	}
	return data, err
}

// closeInto closes fd and joins an error of that into err.
func closeInto(fd int, err *error) {
	*err = errors.Join(*err, os.NewSyscallError("close", unix.Close(fd)))
}
