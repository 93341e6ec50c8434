package instance

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// readFromFilesystem reads a file of the filesystem on a device. The
// filesystem is mounted read-only, and at no place: the mount exists as a
// descriptor of this process alone (fsmount, Linux 5.2), so that nobody sees
// it and nothing is left of it, however the process ends.
func readFromFilesystem(device, fstype, name string, maxSize int) (data []byte, err error) {
	context, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("the kernel has no filesystem %s: %w", fstype, err)
	}
	defer closeInto(context, &err)
	err = errors.Join(
		os.NewSyscallError("fsconfig source", unix.FsconfigSetString(context, "source", device)),
		os.NewSyscallError("fsconfig ro", unix.FsconfigSetFlag(context, "ro")),
	)
	if err == nil {
		err = os.NewSyscallError("fsconfig create", unix.FsconfigCreate(context))
	}
	if err != nil {
		return nil, fmt.Errorf("open the %s filesystem on %s: %w", fstype, device, err)
	}
	mount, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, fmt.Errorf("mount the %s filesystem on %s: %w", fstype, device, err)
	}
	defer closeInto(mount, &err)
	fd, err := unix.Openat2(mount, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
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

func closeInto(fd int, err *error) {
	*err = errors.Join(*err, os.NewSyscallError("close", unix.Close(fd)))
}
