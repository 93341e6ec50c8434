package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"

	"golang.org/x/sys/unix"
)

// confine makes all mounts of the machine read-only for this process, except the
// directories before "--", and executes the program after it. On the first of the
// directories it mounts a new tmpfs for the file of the guest's memory, which ends
// with the mount namespace.
//
// Root in the guest can mount every directory that the process of the guest's
// kernel can reach. confine keeps it from writing there.
func confine(args []string) error {
	split := slices.Index(args, "--")
	if split < 1 || split+1 >= len(args) {
		return errors.New("the arguments of confine are not MEMORY-DIR WRITABLE-DIR... -- PROGRAM ARG")
	}
	writable, argv := args[:split], args[split+1:]
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("separate the mounts from the machine's: %w", err)
	}
	for _, dir := range writable {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("make %s a mount point: %w", dir, err)
		}
	}
	if err := unix.Mount("tmpfs", writable[0], "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=700,size=100%"); err != nil {
		return fmt.Errorf("mount the tmpfs of the guest's memory: %w", err)
	}
	readOnly := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, readOnly); err != nil {
		return fmt.Errorf("make the machine's filesystems read-only: %w", err)
	}
	readWrite := &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	for _, dir := range writable {
		if err := unix.MountSetattr(unix.AT_FDCWD, dir, 0, readWrite); err != nil {
			return fmt.Errorf("make %s writable: %w", dir, err)
		}
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return fmt.Errorf("start %s: %w", path, unix.Exec(path, argv, os.Environ()))
}
