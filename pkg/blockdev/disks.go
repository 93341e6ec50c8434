package blockdev

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Disks returns the whole devices that the kernel has now, sorted by name: disks, loop
// devices and mappings (see Device.Kind). It leaves out a device that is removed during
// the call, and one that has no number and that no process can open (a path of an NVMe
// multipath device). The error is of kind Internal.
func (s *System) Disks() ([]Device, error) {
	dir := filepath.Join(s.sysfs, "block")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, volume.Errorf(volume.KindInternal, "cannot list the disks of this machine: %w", err).
			WithRemedy(remedySysfs)
	}
	disks := make([]Device, 0, len(entries))
	for _, e := range entries {
		d, err := s.deviceInDir(filepath.Join(dir, e.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist): // also what wraps volume.ErrGone
		case err != nil:
			return nil, volume.Errorf(volume.KindInternal, "cannot list the disks of this machine: %w", err)
		default:
			disks = append(disks, d)
		}
	}
	return disks, nil
}

// ScanSCSI asks every SCSI host of the machine to look for new disks, and returns how
// many hosts there are. Success does not mean that a host found a disk. ScanSCSI ends
// with ctx; a scan that hangs continues.
func (s *System) ScanSCSI(ctx context.Context) (hosts int, err error) {
	files := globAll(filepath.Join(s.sysfs, "class", "scsi_host", "*", "scan"))
	_, err = operation.AwaitCall(ctx, func() (struct{}, error) {
		return struct{}{}, writeAttributes(files, "- - -\n") // any channel, target and unit
	})
	if err != nil {
		err = volume.Wrap(fmt.Errorf("cannot make the SCSI hosts look for disks: %w", err), "", "")
	}
	return len(files), err
}

// Flush writes out the data of the device that the kernel still holds in its cache, and
// then the cache of the device itself.
//
// Kinds: Precondition when a mount, in any mount namespace, or another device has
// claimed the device; Deadline when a program such as mkfs or e2fsck has, which will
// end, or when ctx ended first; Canceled; Internal. A flush that outlives ctx claims
// the device until it ends, and the next Flush waits for it.
func (s *System) Flush(ctx context.Context, d Device) error {
	return s.awaitCall(ctx, "flush", d, func() error {
		f, err := s.open(d, os.O_RDONLY|unix.O_EXCL)
		if errors.Is(err, unix.EBUSY) {
			return s.InUseError(d)
		}
		if err != nil {
			return err
		}
		if err := cmp.Or(f.Sync(), f.Close()); err != nil {
			return volume.Errorf(volume.KindInternal, "cannot flush %s: %w", d, err)
		}
		return nil
	})
}

// InUseError is the error for a device that something else has claimed or has open. Mounts,
// mappings and loop devices stay until a person acts (kind Precondition); a program ends
// (Deadline). Of other containers it names what /proc shows: all of the machine if this
// process is in the PID namespace of the machine.
func (s *System) InUseError(d Device) error {
	users := s.users(d)
	if len(users) == 0 {
		by := "a program that has claimed it, or by a mount that the kernel does not show in /sys/fs"
		if openers := s.openers(d); len(openers) > 0 {
			by = strings.Join(openers, ", ")
		}
		return volume.Errorf(volume.KindDeadline, "%s is still in use by %s", d, by).
			WithRemedy(InUseRemedy(d.Path))
	}
	return volume.Errorf(volume.KindPrecondition, "%s is still in use: %s", d, strings.Join(users, ", ")).
		WithRemedy("delete the pods that use the volume; unmount what is mounted from it")
}

// users describes the mappings, loop devices and mounts that hold a device or its
// partitions, as far as they can be read. Of a mount that no mount table in /proc has, only
// the filesystem is known.
func (s *System) users(d Device) (users []string) {
	holders, _ := s.Holders(d)
	for _, h := range holders {
		users = append(users, "by "+h.Path)
	}
	for _, loop := range s.loopDevices(d) {
		users = append(users, "by "+loop)
	}
	partitions, _ := s.Partitions(d)
	for _, p := range append([]Device{d}, partitions...) {
		mountPoints := s.mountPoints(s.mountinfo, p)
		for _, path := range mountPoints {
			users = append(users, "mounted at "+path)
		}
		if len(mountPoints) == 0 {
			users = append(users, s.foreignMounts(p)...)
		}
		if fsType := s.MountedFilesystem(p); fsType != "" && len(mountPoints) == 0 {
			users = append(users, fmt.Sprintf("by a mount of the %s filesystem on %s", fsType, p.Name))
		}
	}
	return users
}

// mountPoints returns where the filesystem of a device is mounted according to a mount table.
func (s *System) mountPoints(mountTable string, d Device) (paths []string) {
	table, err := os.Open(mountTable)
	if err != nil {
		return nil
	}
	defer table.Close()                                    //nolint:errcheck // only read from
	mounts, _ := mountinfo.GetMountsFromReader(table, nil) // none if they cannot be read
	for _, m := range mounts {
		if m.Major == int(d.Major) && m.Minor == int(d.Minor) {
			paths = append(paths, m.Mountpoint)
		}
	}
	return paths
}

// InUseRemedy returns the next step for a device that something else uses for now.
func InUseRemedy(path string) string {
	return fmt.Sprintf("Kubernetes retries this automatically; "+
		"if the error persists, find what uses the device, on this node: lsblk %s; fuser -v %s", path, path)
}

// SetReadOnly makes the kernel refuse writes to the device, or allow them again
// (BLKROSET). It does not make a device writable that refuses writes itself; see
// IsReadOnly. The error is of kind Internal.
func (s *System) SetReadOnly(d Device, readOnly bool) error {
	f, err := s.open(d, os.O_RDONLY)
	if err != nil {
		return err
	}
	err = cmp.Or(s.kernel.SetReadOnly(f, readOnly), f.Close())
	if err != nil {
		return volume.Errorf(volume.KindInternal, "cannot set read-only=%t on %s: %w", readOnly, d, err)
	}
	return nil
}
